"""CPU seconds of all processes that a command started, also of those that outlived it."""

import ctypes
import os
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # Linux: grandchildren that outlive their parent become ours, and their seconds too


def cpu_seconds() -> float:
    """Of all processes that this one started and that have ended, the server that forks a sweep's workers among them;
    waits for what still ends, ten seconds at most. To be called before a command too: it counts from the first call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.1)
        except ChildProcessError:
            break
    return sum(os.times()[2:4])
