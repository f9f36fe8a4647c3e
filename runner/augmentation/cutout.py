"""Cutout: hides a random square of each image (DeVries & Taylor 2017)."""

from typing import Literal

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level
from runner.core.context import Context
from runner.core.schema import Positive
from runner.data.prepare import statistics
from runner.data.splits import Split


def erase(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor | int, width: Tensor | int, value: float | Tensor
) -> Tensor:
    """Return `images [B, C, H, W]` with one box of each set to `value`.

    `value` is in the images' own units: a number, [C, 1, 1] or [B, C, H, W]. Boxes may extend over the edge. A box of
    height or width 0 hides nothing.
    """
    axes = []
    for start, length, side in ((top, height, images.shape[-2]), (left, width, images.shape[-1])):
        pixel = torch.arange(side, device=images.device)
        axes.append(((pixel >= start[:, None]) & (pixel < (start + length)[:, None])).to(images.dtype))
    hidden = axes[0][:, None, :, None] * axes[1][:, None, None, :]
    # Products with 0 and 1 are exact, and faster than `where`, which broadcasts its mask over the channels.
    return (images * (1 - hidden)).add_(hidden * value)


def data_mean(train: Split) -> Tensor:
    """Return the mean [C, 1, 1] of the training pixels in 0..255, on the images' device."""
    with torch.device("cpu"):  # the sums are kept there
        mean, _ = statistics(train)
    return (mean * 255).view(-1, 1, 1).to(train.device)


def to_image_units(value: float | Tensor, images: Tensor) -> float | Tensor:
    """Convert a pixel value 0..255 to the images' units: an integer for uint8, else in [0, 1]."""
    if images.dtype != torch.uint8:
        return value / 255
    return value.round().to(torch.uint8) if isinstance(value, Tensor) else round(value)


class Cutout(Transform):
    """A square hidden at a random position. Its center is uniform over the pixels, so a part may be outside.

    size: side in pixels; `auto`: half the image's side (16 of 32, the paper's value for CIFAR-10).
    fill: 0 to 255, or `mean` of the training data (0 after normalization, as in the paper).
    """

    def __init__(self, size: Positive | Literal["auto"] = "auto", fill: Level | Literal["mean"] = "mean"):
        self.size, self.fill = size, fill
        self.value: float | Tensor = 0.0

    def check(self, context: Context) -> str | None:
        if self.size != "auto" and self.size > context.image_size:
            return (
                f"augmentation.cutout.size={self.size}: larger than the {context.image_size} pixels of an image, which "
                "it would hide; use less, or auto for half"
            )
        return None

    def fit(self, train: Split, size: int) -> None:
        self.value = data_mean(train) if self.fill == "mean" else self.fill

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, tall, wide = images.shape
        size = min(tall, wide) // 2 if self.size == "auto" else self.size
        centers = [torch.randint(side, (count,), generator=generator, device=images.device) for side in (tall, wide)]
        top, left = (center - size // 2 for center in centers)
        return erase(images, top, left, size, size, to_image_units(self.value, images))
