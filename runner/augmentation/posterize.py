"""Posterization of random images: fewer bits per channel."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import draw_mask
from runner.core.schema import Fraction, Whole


def posterize(images: Tensor, bits: int, where: Tensor) -> Tensor:
    """Zero all but the highest `bits` bits of the images marked by `where` (bool `[B, 1, 1, 1]`).

    Floats are rounded to bytes first, and divided by 255 again.
    """
    dropped = (1 << (8 - bits)) - 1
    if images.dtype == torch.uint8:
        return images & (255 - where.to(torch.uint8).mul_(dropped))
    return torch.where(where, ((images * 255).round_().to(torch.uint8) & (255 - dropped)) / 255, images)


class Posterize(Transform):
    """Posterized images with probability p. bits: the number kept of each channel's 8."""

    def __init__(self, bits: Annotated[Whole, Field(ge=1, le=7)] = 4, p: Fraction = 0.5):
        self.bits, self.p = bits, p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return posterize(images, self.bits, draw_mask(images, self.p, generator))
