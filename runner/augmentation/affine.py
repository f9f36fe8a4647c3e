"""Turned, shifted, enlarged and sheared at once: one resampling blurs less than one for each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level, span, uniform
from runner.augmentation.rotate import angles
from runner.augmentation.translate import draw_shifts, farthest, fractions
from runner.augmentation.warp import Interpolation, warp
from runner.core.errors import ConfigError
from runner.core.schema import Fraction, Rate, Real
from runner.core.text import shown


def affine(
    images: Tensor,
    degrees: Tensor,
    shifts: Tensor,
    scale: Tensor,
    shear: Tensor,
    interpolation: Interpolation = "bilinear",
    fill: float = 0,
) -> Tensor:
    """`images [B, C, H, W]`, each by its own map, as torchvision's `affine`: sheared, enlarged, turned, shifted.

    `degrees [B]` clockwise; `shifts [B, 2]` pixels right and down; `scale [B]`; `shear [B, 2]` degrees in x and y.
    """
    turn, (in_x, in_y) = degrees.deg2rad(), shear.deg2rad().unbind(1)
    # R(turn) S(scale) Shear(y) Shear(x) = scale * ((a, b), (c, d)), whose determinant is scale^2.
    a, c = (turn - in_y).cos() / in_y.cos(), (turn - in_y).sin() / in_y.cos()
    b, d = -a * in_x.tan() - turn.sin(), -c * in_x.tan() + turn.cos()
    linear = torch.stack((d, -b, -c, a), 1).view(-1, 2, 2) / scale[:, None, None]
    back = -(linear * shifts[:, None]).sum(2, keepdim=True)
    return warp(images, torch.cat((linear, back), 2), interpolation, fill)


def shears(key: str, degrees: float | Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest angle, in x and in y. ConfigError: bad ones."""
    if isinstance(degrees, int | float):
        limits = angles(key, degrees), (0, 0)
    elif len(degrees) in (2, 4):
        limits = tuple(degrees[:2]), tuple(degrees[2:]) or (0, 0)
    else:
        limits = ()
    if not limits or any(low > high for low, high in limits):
        raise ConfigError(f"{key}={shown(degrees)}: must be a number, [MIN,MAX], or [MIN,MAX,MIN,MAX], in order")
    if any(low <= -90 or high >= 90 for low, high in limits):
        raise ConfigError(f"{key}={shown(degrees)}: must be above -90 and below 90 degrees")
    return limits


class Affine(Transform):
    """degrees: a number (that much either way) or [min, max]. translate: the farthest shift in x and y, fractions of
    the side. scale: [min, max]. shear: as degrees, in x; or [min, max, min, max] in x and y. All uniform."""

    def __init__(
        self,
        degrees: Real | Sequence[Real] = 10,
        translate: Sequence[Fraction] = [0.1, 0.1],
        scale: Sequence[Rate] = [0.9, 1.1],
        shear: Real | Sequence[Real] = 5,
        interpolation: Interpolation = "bilinear",
        fill: Level = 0,
    ):
        key = "augmentation.affine"
        self.degrees = angles(f"{key}.degrees", degrees)
        self.translate = fractions(f"{key}.translate", translate)
        self.scale, self.shear = span(f"{key}.scale", scale), shears(f"{key}.shear", shear)
        self.interpolation, self.fill = interpolation, fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, device = len(images), images.device
        degrees = uniform(count, self.degrees, generator, device)
        most = farthest(self.translate, images.shape[-1], images.shape[-2])
        shifts = draw_shifts(count, most, generator, device)
        scale = uniform(count, self.scale, generator, device)
        shear = torch.stack([uniform(count, limits, generator, device) for limits in self.shear], 1)
        return affine(images, degrees, shifts, scale, shear, self.interpolation, self.fill)
