"""Inversion of random images: white minus the image."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import draw_mask, invert
from runner.core.schema import Fraction


class Invert(Transform):
    def __init__(self, p: Fraction = 0.5):
        self.p = p

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return invert(images, draw_mask(images, self.p, generator))
