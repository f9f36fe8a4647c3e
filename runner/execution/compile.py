"""Networks as `torch.compile` makes them, and what that needs."""

import contextlib
import importlib.util
import os
import shutil
import sys

import torch
from torch import nn

from runner.store.cache import home
from runner.train.state import TrainState


def compiled(model: nn.Module) -> nn.Module:
    """The network, compiled at its first step. What the compiler makes is kept on disk for later runs: beside the other
    caches, unless TORCHINDUCTOR_CACHE_DIR says where."""
    folder = home() / "inductor"
    with contextlib.suppress(OSError):  # else where torch itself would keep it
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return torch.compile(model)


def lacking(device: torch.device) -> str:
    """What torch.compile misses on this machine; empty where it has all."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "Triton is not installed"
    if device.type != "cpu":
        return ""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return "" if shutil.which(name) else f"there is no C++ compiler ({name})"


def compile_as_told(run: TrainState) -> TrainState:
    """Compile the network of a run whose config says `compile=true`; return the run."""
    if run.config["compile"] is True:
        run.forward = compiled(run.model)
    return run
