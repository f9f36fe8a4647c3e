"""Random rotation, shift, scale and shear in one resampling, because a resampling for each would blur more."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level, check_range, draw_uniform
from runner.augmentation.rotate import angle_range
from runner.augmentation.translate import check_fractions, draw_shifts, max_shifts
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
    """Return `images [B, C, H, W]`, each sheared, scaled, rotated and shifted by its own values.

    The order is that of torchvision's `affine`.

    `degrees [B]` clockwise; `shifts [B, 2]` pixels right and down; `scale [B]`; `shear [B, 2]` degrees in x and y.
    """
    turn, (in_x, in_y) = degrees.deg2rad(), shear.deg2rad().unbind(1)
    # R(turn) S(scale) Shear(y) Shear(x) = scale * ((a, b), (c, d)), whose determinant is scale^2.
    a, c = (turn - in_y).cos() / in_y.cos(), (turn - in_y).sin() / in_y.cos()
    b, d = -a * in_x.tan() - turn.sin(), -c * in_x.tan() + turn.cos()
    linear = torch.stack((d, -b, -c, a), 1).view(-1, 2, 2) / scale[:, None, None]
    back = -(linear * shifts[:, None]).sum(2, keepdim=True)
    return warp(images, torch.cat((linear, back), 2), interpolation, fill)


def shear_ranges(key: str, degrees: float | Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the (min, max) angles in x and in y. Raises ConfigError for invalid ones."""
    if isinstance(degrees, int | float):
        limits = angle_range(key, degrees), (0, 0)
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
    """Random affine map of each image. All values are drawn uniformly.

    degrees: a number x for [-x, x], or [min, max], clockwise.
    translate: the largest shift in x and in y, as fractions of the side.
    scale: [min, max] of the factor.
    shear: degrees like `degrees`, in x; or [min, max, min, max] in x and y.
    """

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
        self.degrees = angle_range(f"{key}.degrees", degrees)
        self.translate = check_fractions(f"{key}.translate", translate)
        self.scale, self.shear = check_range(f"{key}.scale", scale), shear_ranges(f"{key}.shear", shear)
        self.interpolation, self.fill = interpolation, fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, device = len(images), images.device
        degrees = draw_uniform(count, self.degrees, generator, device)
        max_shift = max_shifts(self.translate, images.shape[-1], images.shape[-2])
        shifts = draw_shifts(count, max_shift, generator, device)
        scale = draw_uniform(count, self.scale, generator, device)
        shear = torch.stack([draw_uniform(count, limits, generator, device) for limits in self.shear], 1)
        return affine(images, degrees, shifts, scale, shear, self.interpolation, self.fill)
