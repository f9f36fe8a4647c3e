"""Changes to Python, torch and the C library, one file each, which gain speed and change no result.

RUNNER_PLAIN=1 in the environment turns all of them off, and the direct steps of `runner.optimizer.kernels`.
"""

import os


def is_plain() -> bool:
    """Return whether the user wants none of them."""
    return os.environ.get("RUNNER_PLAIN", "") not in ("", "0")
