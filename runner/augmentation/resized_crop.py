"""Random crop of random area and aspect ratio, resized to the network's input (Szegedy et al. 2015, section 6)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import check_range
from runner.augmentation.warp import resample, taps
from runner.core.context import Context
from runner.core.schema import Factor, Rate
from runner.core.text import shown
from runner.data.splits import Split

TRIES = 10  # boxes drawn for each image; the first that fits is used, as in torchvision


def resized_crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """Return a box of each of `images [B, C, H, W]`, resized to `size` x `size` pixels: float32 in [0, 1].

    Bilinear with antialiasing, as torchvision's `resized_crop`: pixels outside the box do not contribute.
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
    max_sides: tuple[int, int],
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw random boxes: sides `a [count]` and `b [count]` in pixels, and bool [count]: does the box fit?

    a * b is uniform in `area` (pixels), a / b log-uniform in `ratio`. Of `TRIES` draws, the first is used that has
    sides of at least 1 and at most `max_sides`.
    """
    draws = torch.rand(2, count, TRIES, generator=generator, device=device)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    size = draws[0].mul_(area[1] - area[0]).add_(area[0]).sqrt_()
    skew = draws[1].mul_((high - low) / 2).add_(low / 2).exp_()  # square root of the ratio
    a, b = (size * skew).round_(), (size / skew).round_()
    fits = (a >= 1) & (a <= max_sides[0]) & (b >= 1) & (b <= max_sides[1])
    first = fits.byte().argmax(1, keepdim=True)
    return a.gather(1, first)[:, 0].long(), b.gather(1, first)[:, 0].long(), fits.any(1)


def draw_starts(room: Tensor, generator: torch.Generator) -> Tensor:
    """Draw integers [B], each uniform in 0..room [B]."""
    return (torch.rand(len(room), generator=generator, device=room.device) * (room + 1)).long()


def central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Return the height and width of the largest box of an allowed aspect ratio in an image."""
    if width / height < ratio[0]:
        return max(1, round(width / ratio[0])), width
    if width / height > ratio[1]:
        return height, max(1, round(height * ratio[1]))
    return height, width


class ResizedCrop(Transform):
    """Random crop, resized to the network's input.

    scale: [min, max] of the crop's area as a fraction of the image's, uniform.
    ratio: [min, max] of width / height, log-uniform.
    If none of ten draws fits, the crop is the largest centered box of an allowed ratio.
    """

    def __init__(self, scale: Sequence[Factor] = [0.08, 1.0], ratio: Sequence[Rate] = [0.75, 1.3333]):
        self.scale = check_range("augmentation.resized_crop.scale", scale)
        self.ratio = check_range("augmentation.resized_crop.ratio", ratio)
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
        default = central_box(tall, wide, self.ratio)
        height, width = torch.where(fits, height, default[0]), torch.where(fits, width, default[1])
        top, left = draw_starts(tall - height, generator), draw_starts(wide - width, generator)
        top, left = torch.where(fits, top, (tall - height) // 2), torch.where(fits, left, (wide - width) // 2)
        return resized_crop(images, top, left, height, width, self.size)
