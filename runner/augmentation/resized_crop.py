"""A part of random area and aspect ratio, resized to what enters the network (Szegedy et al. 2015, section 6)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import span
from runner.augmentation.warp import resample, taps
from runner.core.context import Context
from runner.core.schema import Factor, Rate
from runner.core.text import shown
from runner.data.splits import Split

TRIES = 10  # boxes drawn for each image, as torchvision does: the first that fits is taken


def resized_crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """The boxes [B] of `images [B, C, H, W]`, resized to `size` pixels square: float32 in [0, 1].

    Bilinear with antialias, as torchvision's `resized_crop`: no pixel outside the box has a part.
    """
    axes = []
    for start, length, side in ((top, height, images.shape[-2]), (left, width, images.shape[-1])):
        places, weights, _ = taps(start, length, size, side / size)
        inside = (places >= start[:, None, None]) & (places < (start + length)[:, None, None])
        axes.append((places, weights.mul_(inside)))
    return resample(images, *axes)


def draw_sides(
    count: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    most: tuple[int, int],
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sides `a [count]` and `b [count]` of random boxes, in whole pixels, and whether they fit (bool [count]).

    a * b is uniform in `area` (pixels), a / b log-uniform in `ratio`; of `TRIES` draws the first whose sides are at
    least 1 and at most `most` is taken.
    """
    draws = torch.rand(2, count, TRIES, generator=generator, device=device)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    size = draws[0].mul_(area[1] - area[0]).add_(area[0]).sqrt_()
    skew = draws[1].mul_((high - low) / 2).add_(low / 2).exp_()  # the root of the ratio
    a, b = (size * skew).round_(), (size / skew).round_()
    fits = (a >= 1) & (a <= most[0]) & (b >= 1) & (b <= most[1])
    first = fits.byte().argmax(1, keepdim=True)
    return a.gather(1, first)[:, 0].long(), b.gather(1, first)[:, 0].long(), fits.any(1)


def draw_starts(room: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers [B], each uniform in 0..room [B]."""
    return (torch.rand(len(room), generator=generator, device=room.device) * (room + 1)).long()


def central(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box in an image whose aspect ratio is allowed."""
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


class ResizedCrop(Transform):
    """scale: [min, max] of the area, as a part of the image's, uniform. ratio: [min, max] of width / height,
    log-uniform. Where ten draws do not fit, the largest box of an allowed ratio at the centre is taken."""

    def __init__(self, scale: Sequence[Factor] = [0.08, 1.0], ratio: Sequence[Rate] = [0.75, 1.3333]):
        self.scale = span("augmentation.resized_crop.scale", scale)
        self.ratio = span("augmentation.resized_crop.ratio", ratio)
        self.size = 0

    def check(self, context: Context) -> str | None:
        pixels = context.stored_size**2
        if self.scale[1] * pixels < 1:
            return (
                f"augmentation.resized_crop.scale={shown(self.scale)}: less than a pixel of the image's {pixels}; "
                f"the largest part must be at least {1.01 / pixels:.3g}"
            )
        return None

    def fit(self, train: Split, size: int) -> None:
        self.size = size

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, tall, wide = images.shape
        area = (self.scale[0] * tall * wide, self.scale[1] * tall * wide)
        width, height, fits = draw_sides(count, area, self.ratio, (wide, tall), generator, images.device)
        default = central(tall, wide, self.ratio)
        height, width = torch.where(fits, height, default[0]), torch.where(fits, width, default[1])
        top, left = draw_starts(tall - height, generator), draw_starts(wide - width, generator)
        top, left = torch.where(fits, top, (tall - height) // 2), torch.where(fits, left, (wide - width) // 2)
        return resized_crop(images, top, left, height, width, self.size)
