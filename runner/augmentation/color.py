"""Helpers of the color transforms: random masks and strengths, conversion, luma, inversion."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.draws import check_range, draw_uniform

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in gray (ITU-R BT.601), rounded as in torchvision


def to_range(key: str, value: float | Sequence[float]) -> tuple[float, float]:
    """Return (min, max) of `[MIN,MAX]` or of a number. Raises ConfigError if min is above max."""
    return (value, value) if isinstance(value, int | float) else check_range(key, value)


def draw_values(images: Tensor, limits: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw a uniform number for each image, `[B, 1, 1, 1]`."""
    return draw_uniform(len(images), limits, generator, images.device).view(-1, 1, 1, 1)


def draw_mask(images: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Draw a bool mask `[B, 1, 1, 1]` that is True with probability p for each image."""
    return torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < p


def to_float(images: Tensor) -> Tensor:
    """Return a float32 copy in [0, 1] that may be changed in place."""
    copy = images.to(torch.float32, copy=True)
    return copy.div_(255) if images.dtype == torch.uint8 else copy


def luma(images: Tensor) -> Tensor:
    """Return the gray `[B, 1, H, W]` of RGB floats `[B, 3, H, W]`. For other channel counts it is their mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, 1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def invert(images: Tensor, where: Tensor) -> Tensor:
    """Return the images with the pixels marked by `where` (bool, broadcast) inverted. The type stays."""
    if images.dtype == torch.uint8:
        return images ^ where.to(torch.uint8).mul_(255)
    return (where.float() - images).abs_()
