"""The kernel of a network's first convolution."""

from torch import nn


def stem(model: nn.Module) -> str | None:
    """Return the name of the first convolution's kernel; None for a network without convolutions."""
    return next((f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
