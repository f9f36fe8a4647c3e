"""Some images have their bright pixels inverted, as an overexposed film has."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import chosen, inverted
from runner.augmentation.draws import Level
from runner.core.schema import Fraction


def bright(images: Tensor, threshold: float) -> Tensor:
    """Where pixels are at or above a threshold of 0 to 255; floats are judged as the bytes that they round to."""
    return images >= (threshold if images.dtype == torch.uint8 else (threshold - 0.5) / 255)


class Solarize(Transform):
    """threshold: 0 to 255; pixels at or above it are inverted."""

    def __init__(self, threshold: Level = 128, p: Fraction = 0.5):
        self.threshold, self.p = threshold, p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return inverted(images, bright(images, self.threshold) & chosen(images, self.p, generator))
