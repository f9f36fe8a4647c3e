"""Settings of glibc's allocator: keep memory between training steps, return it between runs. Imports no torch."""

import ctypes
import functools
import os
import sys

from runner.core.startup import is_plain

# By default glibc returns large blocks to the system at every step and gets them again, each page empty
# (docs/benchmarks.md). With these values it keeps them: environment variable -> (parameter of mallopt(3), value).
_KEEP = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),
    "MALLOC_TOP_PAD_": (-2, 1 << 28),
}
_HUGE, _ADVICE = 1 << 21, 14  # bytes of a large page of Linux; MADV_HUGEPAGE of madvise(2)


@functools.cache
def keep() -> None:
    """Keep freed host memory in this process from now on (Linux with glibc; elsewhere nothing changes)."""
    if is_plain() or sys.platform != "linux":
        return
    if not hasattr(libc := ctypes.CDLL(None), "mallopt"):  # other C libraries have none
        return
    if any(name in os.environ for name in (*_KEEP, "GLIBC_TUNABLES")):  # the user has set them
        return
    for parameter, value in _KEEP.values():
        if not libc.mallopt(parameter, value):
            libc.mallopt(parameter, 1 << 25)  # the highest threshold that older versions take
    # large pages, because steps read their memory in order: that takes a tenth less time
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    begin = libc.sbrk(0)
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(1 << 25))))
    aligned = -(-begin // _HUGE) * _HUGE
    if (end := libc.sbrk(0)) > aligned:
        libc.madvise(ctypes.c_void_p(aligned), ctypes.c_size_t(end - aligned), _ADVICE)


def trim() -> None:
    """Return freed host memory to the system (Linux with glibc; elsewhere nothing happens)."""
    if not is_plain() and sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
