"""Random rotation about the center."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level, check_range, draw_uniform
from runner.augmentation.warp import Interpolation, warp
from runner.core.errors import ConfigError
from runner.core.schema import Real


def rotate(images: Tensor, degrees: Tensor, interpolation: Interpolation = "bilinear", fill: float = 0) -> Tensor:
    """Rotate each of `images [B, C, H, W]` counterclockwise by its own `degrees [B]`, as torchvision's `rotate`."""
    angle = degrees.deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    inverse = torch.stack((cos, -sin, zero, sin, cos, zero), 1).view(-1, 2, 3)
    return warp(images, inverse, interpolation, fill)


def angle_range(key: str, degrees: float | Sequence[float]) -> tuple[float, float]:
    """Return (min, max) of `degrees`: a pair, or a number x for [-x, x]. Raises ConfigError for an invalid value."""
    if not isinstance(degrees, int | float):
        return check_range(key, degrees)
    if degrees < 0:
        raise ConfigError(f"{key}={degrees}: must be at least 0 (so many degrees either way), or [MIN,MAX]")
    return -degrees, degrees


class Rotate(Transform):
    """Uniform random rotation. degrees: a number x for [-x, x], or [min, max], counterclockwise."""

    def __init__(self, degrees: Real | Sequence[Real] = 15, interpolation: Interpolation = "bilinear", fill: Level = 0):
        self.degrees = angle_range("augmentation.rotate.degrees", degrees)
        self.interpolation, self.fill = interpolation, fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        degrees = draw_uniform(len(images), self.degrees, generator, images.device)
        return rotate(images, degrees, self.interpolation, self.fill)
