"""Compilation of networks with `torch.compile`, and its requirements."""

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
    """Return the network wrapped by `torch.compile`; it compiles in the first step.

    Inductor's disk cache lies beside the runner's caches, unless TORCHINDUCTOR_CACHE_DIR is set.
    """
    folder = home() / "inductor"
    with contextlib.suppress(OSError):  # then torch's default folder is used
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return torch.compile(model)


def missing_compiler(device: torch.device) -> str:
    """Return what torch.compile lacks on this machine; empty if nothing."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "Triton is not installed"
    if device.type != "cpu":
        return ""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return "" if shutil.which(name) else f"there is no C++ compiler ({name})"


def compile_if_configured(run: TrainState) -> TrainState:
    """Return the run, its network compiled if the config says `compile=true`."""
    if run.config["compile"] is True:
        run.forward = compiled(run.model)
    return run
