"""Turned about the centre by a random angle."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level, span, uniform
from runner.augmentation.warp import Interpolation, warp
from runner.core.errors import ConfigError
from runner.core.schema import Real


def rotate(images: Tensor, degrees: Tensor, interpolation: Interpolation = "bilinear", fill: float = 0) -> Tensor:
    """`images [B, C, H, W]`, each turned counter-clockwise by its own `degrees [B]`, as torchvision's `rotate`."""
    angle = degrees.deg2rad()
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    inverse = torch.stack((cos, -sin, none, sin, cos, none), 1).view(-1, 2, 3)
    return warp(images, inverse, interpolation, fill)


def angles(key: str, degrees: float | Sequence[float]) -> tuple[float, float]:
    """Smallest and largest of `degrees`, a pair or a number (that much either way). ConfigError: a bad one."""
    if not isinstance(degrees, int | float):
        return span(key, degrees)
    if degrees < 0:
        raise ConfigError(f"{key}={degrees}: must be at least 0 (so many degrees either way), or [MIN,MAX]")
    return -degrees, degrees


class Rotate(Transform):
    """degrees: a number (that much either way) or [min, max], counter-clockwise; uniform in between."""

    def __init__(self, degrees: Real | Sequence[Real] = 15, interpolation: Interpolation = "bilinear", fill: Level = 0):
        self.degrees = angles("augmentation.rotate.degrees", degrees)
        self.interpolation, self.fill = interpolation, fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        degrees = uniform(len(images), self.degrees, generator, images.device)
        return rotate(images, degrees, self.interpolation, self.fill)
