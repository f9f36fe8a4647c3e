"""Solarization of random images: inverts their bright pixels."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import draw_mask, invert
from runner.augmentation.draws import Level
from runner.core.schema import Fraction


def is_bright(images: Tensor, threshold: float) -> Tensor:
    """Return a mask of the pixels at or above a threshold of 0 to 255. Floats count as the bytes they round to."""
    return images >= (threshold if images.dtype == torch.uint8 else (threshold - 0.5) / 255)


class Solarize(Transform):
    """Solarized images with probability p. threshold: 0 to 255; pixels at or above it are inverted."""

    def __init__(self, threshold: Level = 128, p: Fraction = 0.5):
        self.threshold, self.p = threshold, p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return invert(images, is_bright(images, self.threshold) & draw_mask(images, self.p, generator))
