"""How images enter a network that has weights from elsewhere: its channels, its normalization."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from runner.data.splits import Splits

if TYPE_CHECKING:
    from runner.transfer.weights import Weights


def stem(model: nn.Module) -> str | None:
    """Return the name of the kernel that meets the image; None for a network without convolutions."""
    return next((f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)


def stem_channels(model: nn.Module, weights: "Weights") -> int | None:
    """Return the channels of images that weights are for; None where that is not known."""
    kernel = weights.state.get(stem(model) or "")
    return weights.channels if kernel is None or kernel.ndim != 4 else kernel.shape[1]


def as_trained(splits: Splits, weights: "Weights", build: Callable[[], nn.Module]) -> Splits:
    """Return a data set normalized as for its weights: grey images in as many channels as those take.

    build: makes the network, to look for its first kernel in a file that says nothing of its images.
    """
    channels, sizes = splits.channels, weights.preset
    if channels == 1:
        channels = weights.channels or stem_channels(_sketch(build), weights) or 1
    if sizes is not None:
        return splits.normalized_as(sizes.mean, sizes.std, channels)
    return splits.normalized_as(splits.mean.tolist(), splits.std.tolist(), channels)


def _sketch(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network without numbers where it can be made without."""
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):  # a model that needs real numbers
        return build()
