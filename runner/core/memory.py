"""How much memory a run takes at its peak, and whether an error says that there was too little."""

import contextlib
import gc
import resource
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from runner.core.startup import malloc

# What torch's allocators say of the CPU, where they raise a plain RuntimeError.
_WORDS = ("can't allocate memory", "not enough memory", "cannot allocate memory")
_watched: list[list[weakref.ref]] = []  # of each run that is under way, the innermost last
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def lacking(error: BaseException) -> bool:
    """Whether an error is one of too little memory, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


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
    own: list[weakref.ref] = []
    _watched.append(own)
    try:
        yield
    finally:
        _watched[:] = [other for other in _watched if other is not own]  # others may have begun meanwhile
    if any(reference() is not None for reference in own):
        gc.collect()


def reset(device: torch.device) -> None:
    """Begin to watch the peak, after what earlier runs freed was given back to the system, or it would count."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    malloc.trim()
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
