"""Changes to torch and the C library that make runs faster and change no result, one file each.

RUNNER_PLAIN=1 in the environment turns off all of them and the direct steps of `runner.optimizer.kernels`.
"""

import os


def is_plain() -> bool:
    """Return whether the user has turned them off."""
    return os.environ.get("RUNNER_PLAIN", "") not in ("", "0")
