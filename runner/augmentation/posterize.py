"""Some images keep fewer shades."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import chosen
from runner.core.schema import Fraction, Whole


def posterize(images: Tensor, bits: int, where: Tensor) -> Tensor:
    """Images that `where` (bool `[B, 1, 1, 1]`) marks with all but their highest `bits` bits zero.

    Floats become such a byte over 255.
    """
    lost = (1 << (8 - bits)) - 1
    if images.dtype == torch.uint8:
        return images & (255 - where.to(torch.uint8).mul_(lost))
    return torch.where(where, ((images * 255).round_().to(torch.uint8) & (255 - lost)) / 255, images)


class Posterize(Transform):
    """bits: of the 8 of each channel."""

    def __init__(self, bits: Annotated[Whole, Field(ge=1, le=7)] = 4, p: Fraction = 0.5):
        self.bits, self.p = bits, p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return posterize(images, self.bits, chosen(images, self.p, generator))
