"""The dtype of a run's forward pass and the memory format of its images."""

from typing import Any

import torch

from runner.core.schema import PRECISIONS

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in PRECISIONS.items()}


def precision(config: dict[str, Any], device: torch.device) -> torch.dtype:
    """Return the dtype of the forward pass; `auto` is bfloat16 on a GPU that supports it, except for full batches."""
    name = config["precision"]
    if name == "auto":
        if config["optimizer"]["full_batch"]:  # line searches compare losses: bfloat16 is too coarse
            return torch.float32
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return DTYPES[name]


def resolved(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the config with `precision: auto` replaced by the precision on a device."""
    dtype = precision(config, device)
    return config | {"precision": next(name for name, known in DTYPES.items() if known is dtype)}


def channels_last(config: dict[str, Any], model: torch.nn.Module) -> bool:
    """Return whether images are channels-last; `auto` is true for models with convolutions."""
    if config["channels_last"] == "auto":
        return any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return config["channels_last"]
