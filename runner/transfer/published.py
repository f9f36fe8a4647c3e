"""Conventions of torchvision's published weights: old tensor names, and the input transform."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

# torchvision renames these when loading: `densenet._load_state_dict` and `vision_transformer.MLPBlock`.
OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)"), r"\1"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the current names of torchvision's networks."""
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def transforms_input(model: nn.Module) -> bool:
    """Return whether a network transforms its input, as GoogLeNet and Inception v3 with published weights."""
    return getattr(model, "transform_input", False)


def set_transform_input(model: nn.Module, value: bool) -> None:
    """Switch the input transform of GoogLeNet and Inception v3. Does nothing for other networks.

    Their published weights expect channels in -1..1. torchvision normalizes images as for all its networks, and these
    two undo that.
    """
    if hasattr(model, "transform_input"):
        model.transform_input = value
