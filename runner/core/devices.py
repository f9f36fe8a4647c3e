"""Device and CPU threads of a run."""

import contextlib
import os
from typing import Any

import torch

from runner.core.errors import ConfigError

SMALL_STEP = 2e8  # operations of a batch's forward pass below which one thread is fastest (docs/benchmarks.md)


def threads(config: dict[str, Any], flops: int, at_once: int) -> int:
    """Return the number of CPU threads of a run.

    flops: of one image's forward pass. at_once: runs that train at the same time.
    `auto` is one thread for small steps, else the run's share of the cores.
    """
    if config["threads"] != "auto":
        return config["threads"]
    # because in a small step a second thread gains nothing and, on a busy machine, makes the first wait
    small = flops * config["batch_size"] < SMALL_STEP
    return 1 if small else max(1, cores() // max(1, at_once))


def cores() -> int:
    """Return the number of cores for this process: its share where torchrun started several processes."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    with contextlib.suppress(AttributeError):  # not on macOS
        return max(1, len(os.sched_getaffinity(0)) // processes)
    return max(1, (os.cpu_count() or 1) // processes)


def visible_gpus() -> list[str]:
    """Return the GPUs of this process as `CUDA_VISIBLE_DEVICES` names them: numbers, or UUIDs where it holds them."""
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if names is None else names.replace(" ", "").split(",")[:count]


def check_device(config: dict[str, Any]) -> torch.device:
    """Return the device that the key `device` names. Raises `ConfigError` where it is not available."""
    name = config["device"]
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if name.startswith("cuda"):
        number = int(name.partition(":")[2] or 0)
        if not cuda or number >= torch.cuda.device_count():
            available = f"there are {torch.cuda.device_count()}" if cuda else "no CUDA device is here"
            raise ConfigError(f"device={name}: {available}; use device=auto or device=cpu")
    if name == "mps" and not mps:
        raise ConfigError("device=mps: no Apple GPU is here; use device=auto or device=cpu")
    return torch.device(name)
