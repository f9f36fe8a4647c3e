"""Conventions of torchvision's published weights: old names of tensors, and a change of the input."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

# torchvision renames these while it loads: `densenet._load_state_dict` and `vision_transformer.MLPBlock`.
OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)"), r"\1"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names that torchvision's networks have for them now."""
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def transforms_input(model: nn.Module) -> bool:
    """Return whether a network changes its input as GoogLeNet and Inception v3 do with published weights."""
    return getattr(model, "transform_input", False)


def set_transform_input(model: nn.Module, value: bool) -> None:
    """Have GoogLeNet and Inception v3 change their input, or not; leave other networks as they are.

    The published weights are of networks for channels scaled to -1..1. torchvision normalizes images as for all its
    networks, and these two undo that.
    """
    if hasattr(model, "transform_input"):
        model.transform_input = value
