"""Some images lose their colours."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import chosen, luma, unit
from runner.core.context import Context
from runner.core.schema import Fraction


class Grayscale(Transform):
    """Keeps three channels, all equal to the grey `0.2989 r + 0.587 g + 0.114 b`."""

    def __init__(self, p: Fraction = 0.2):
        self.p = p

    def check(self, context: Context) -> str | None:
        if context.channels == 3:
            return None
        return f"augmentation.grayscale: needs 3 channels, and the images have {context.channels}; leave it out"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        weight = chosen(images, self.p, generator).float()
        images = unit(images)
        return images.lerp_(luma(images), weight)
