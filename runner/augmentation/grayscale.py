"""Conversion of random images to gray."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import draw_mask, luma, to_float
from runner.core.context import Context
from runner.core.schema import Fraction


class Grayscale(Transform):
    """Gray images with probability p: three channels, all equal to `0.2989 r + 0.587 g + 0.114 b`."""

    def __init__(self, p: Fraction = 0.2):
        self.p = p

    def check(self, context: Context) -> str | None:
        if context.channels == 3:
            return None
        return f"augmentation.grayscale: needs 3 channels, and the images have {context.channels}; leave it out"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        weight = draw_mask(images, self.p, generator).float()
        images = to_float(images)
        return images.lerp_(luma(images), weight)
