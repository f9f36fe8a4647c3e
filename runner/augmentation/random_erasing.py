"""Random Erasing: hides a box of random area and aspect ratio (Zhong et al. 2020)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.cutout import data_mean, erase, to_image_units
from runner.augmentation.draws import Level, check_range
from runner.augmentation.resized_crop import draw_sides, draw_starts
from runner.core.context import Context
from runner.core.schema import Factor, Fraction, Rate
from runner.core.text import shown
from runner.data.splits import Split


def random_bytes(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw uniform uint8 values of a shape, eight at a time as int64."""
    words = torch.empty(-(-shape.numel() // 8), dtype=torch.int64, device=device)
    return words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: shape.numel()].view(shape)


class RandomErasing(Transform):
    """A random box hidden in each image with probability p. If none of ten draws fits, the image is unchanged.

    scale: [min, max] of the box's area as a fraction of the image's, uniform.
    ratio: [min, max] of height / width, log-uniform.
    value: 0 to 255; `mean` of the training data; or `random` for each pixel and channel (the paper's choice).
    """

    def __init__(
        self,
        p: Fraction = 0.5,
        scale: Sequence[Factor] = [0.02, 0.33],
        ratio: Sequence[Rate] = [0.3, 3.3],
        value: Level | Literal["mean", "random"] = "random",
    ):
        self.p, self.value = p, value
        self.scale = check_range("augmentation.random_erasing.scale", scale)
        self.ratio = check_range("augmentation.random_erasing.ratio", ratio)
        self.mean: Tensor | None = None

    def check(self, context: Context) -> str | None:
        squarest = math.sqrt(min(max(1, self.ratio[0]), self.ratio[1]))
        smallest = math.sqrt(self.scale[0]) * context.stored_size * max(squarest, 1 / squarest)
        if round(smallest) >= context.stored_size:
            keys = f"augmentation.random_erasing.scale={shown(self.scale)} with ratio={shown(self.ratio)}"
            return f"{keys}: no such box fits into an image; use a smaller scale, or a ratio nearer 1"
        return None

    def fit(self, train: Split, size: int) -> None:
        self.mean = data_mean(train) if self.value == "mean" else None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, tall, wide = images.shape
        device, pixels = images.device, tall * wide
        mask = torch.rand(count, generator=generator, device=device) < self.p
        area = (self.scale[0] * pixels, self.scale[1] * pixels)
        height, width, fits = draw_sides(count, area, self.ratio, (tall - 1, wide - 1), generator, device)
        height, width = height * (mask & fits), width * (mask & fits)
        top, left = draw_starts(tall - height, generator), draw_starts(wide - width, generator)
        if self.value == "random":
            value = random_bytes(images.shape, generator, device)
        else:
            value = self.value if self.mean is None else self.mean
        return erase(images, top, left, height, width, to_image_units(value, images))
