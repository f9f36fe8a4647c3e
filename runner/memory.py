"""How much memory a run takes at its peak, and whether an error says that there was too little."""

import contextlib
import gc
import resource
import sys
from pathlib import Path

import torch

# What torch's allocators say of the CPU, where they raise a plain RuntimeError.
_WORDS = ("can't allocate memory", "not enough memory", "cannot allocate memory")
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


def reset(device: torch.device) -> None:
    """Begins to watch."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
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
