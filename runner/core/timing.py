"""How long work takes, on whichever device."""

import time
from collections.abc import Callable
from typing import Any

import torch


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    wait(device)
    began = time.perf_counter()
    found = work()
    wait(device)
    return found, time.perf_counter() - began
