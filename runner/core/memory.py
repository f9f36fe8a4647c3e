"""Peak memory of a run, release of memory, and out-of-memory errors."""

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

# Messages of torch's CPU allocators, which raise a plain RuntimeError.
_MESSAGES = ("can't allocate memory", "not enough memory", "cannot allocate memory")
_watched: list[list[weakref.ref]] = []  # of each active `released`, the innermost last
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means too little memory, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in _MESSAGES)


def free(device: torch.device) -> None:
    """Release the memory of unreferenced objects."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def watch(*objects: Any) -> None:
    """Register objects that `released` frees at its end."""
    if _watched:
        _watched[-1] += map(weakref.ref, objects)


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Free at the end the objects watched inside, even in a reference cycle (of a library, or of an error's frames)."""
    references: list[weakref.ref] = []
    _watched.append(references)
    try:
        yield
    finally:
        _watched[:] = [entry for entry in _watched if entry is not references]  # others may have begun meanwhile
    if any(reference() is not None for reference in references):
        gc.collect()  # only then, because it takes a tenth of a second


def reset(device: torch.device) -> None:
    """Reset the peak of memory, after returning to the system what earlier runs freed (it would count)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    malloc.trim()
    with contextlib.suppress(OSError):  # not Linux: then the peak is that of the whole process
        _CLEAR.write_text("5")


def peak(device: torch.device) -> float:
    """Return the peak since `reset` in MiB: on a GPU of the memory that torch reserved, else of the process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(resident / (2**20 if sys.platform == "darwin" else 2**10), 1)
