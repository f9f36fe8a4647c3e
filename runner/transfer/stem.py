"""The kernel through which images enter a network."""

from torch import nn


def stem(model: nn.Module) -> str | None:
    """Return the name of the kernel that meets the image; None for a network without convolutions."""
    return next((f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
