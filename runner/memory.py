"""How much memory a run takes at its peak, and whether an error says that there was too little."""

import contextlib
import ctypes
import functools
import gc
import os
import resource
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# What torch's allocators say of the CPU, where they raise a plain RuntimeError.
_WORDS = ("can't allocate memory", "not enough memory", "cannot allocate memory")
# glibc gives large blocks back to the system at every step, and gets them again, each page empty (docs/benchmarks.md);
# with these it keeps them: its numbers of mallopt(3), by the variables with which a user sets the same.
_KEEP = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),
    "MALLOC_TOP_PAD_": (-2, 1 << 28),
}
_HUGE, _ADVICE = 1 << 21, 14  # bytes of Linux's large pages; madvise(2)'s word for them
_watched: list[list[weakref.ref]] = []  # of each run that is under way, the innermost last
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def lacking(error: BaseException) -> bool:
    """Whether an error is one of too little memory, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


@functools.cache
def keep() -> None:
    """From now on this process keeps the host's memory that its steps take again and again."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):  # other C libraries have none
        return
    if any(name in os.environ for name in (*_KEEP, "GLIBC_TUNABLES")):  # somebody knows better
        return
    for parameter, value in _KEEP.values():
        if not libc.mallopt(parameter, value):
            libc.mallopt(parameter, 1 << 25)  # the most that older ones take; without any, all would be given back
    # What a program's steps move is read from one end to the other: in large pages it takes a tenth less.
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    begin = libc.sbrk(0)
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(1 << 25))))
    first = -(-begin // _HUGE) * _HUGE
    if (end := libc.sbrk(0)) > first:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _ADVICE)


def free(device: torch.device) -> None:
    """Gives back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def watch(*objects: Any) -> None:
    """Have `released` free these at its end."""
    if _watched:
        _watched[-1] += map(weakref.ref, objects)


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Free at the end what was watched inside, even where a cycle holds it: of a library, or of an error's frames.

    Looking for cycles takes a tenth of a second, so it is done only where something is left.
    """
    _watched.append([])
    try:
        yield
    except BaseException:
        _watched.pop()
        raise
    if any(reference() is not None for reference in _watched.pop()):
        gc.collect()


def reset(device: torch.device) -> None:
    """Begin to watch the peak, after what earlier runs freed was given back to the system, or it would count."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # other C libraries have none
        libc.malloc_trim(0)
    with contextlib.suppress(OSError):  # not Linux: then the peak is that of the whole process
        _CLEAR.write_text("5")


def peak(device: torch.device) -> float:
    """Mebibytes at the peak since `reset`: on a GPU those that torch reserved, else the process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)
