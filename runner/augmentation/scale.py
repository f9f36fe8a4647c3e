"""Resized by a random factor; the centre stays (scale jittering, Simonyan & Zisserman 2015, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level, span, uniform
from runner.augmentation.warp import resample, taps
from runner.core.context import Context
from runner.core.schema import Rate
from runner.core.text import shown


def rescale(images: Tensor, factors: Tensor, smallest: float, fill: float = 0) -> Tensor:
    """`images [B, C, H, W]`, each resized by its own factor [B], then cut or padded to what it was about its centre.

    Bilinear with antialias, float32 in [0, 1]; what is no part of a smaller image is `fill` (0..255). No factor is
    below `smallest`.
    """
    axes = []
    for side in images.shape[-2:]:
        length = side / factors
        places, weights, middles = taps((side - length) / 2, length, side, 1 / smallest)
        axes.append((places, weights.mul_(((middles > 0) & (middles < side))[:, :, None])))
    return resample(images, *axes, fill)


class Scale(Transform):
    """scale: [min, max] of the factor, uniform in between; above 1 enlarges."""

    def __init__(self, scale: Sequence[Rate] = [0.8, 1.2], fill: Level = 0):
        self.scale, self.fill = span("augmentation.scale.scale", scale), fill

    def check(self, context: Context) -> str | None:
        side = context.image_size
        if self.scale[0] * side < 1:
            return (
                f"augmentation.scale.scale={shown(self.scale)}: makes less than a pixel of {side}; the smallest factor "
                f"must be at least {1.01 / side:.3g}"
            )
        return None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return rescale(images, uniform(len(images), self.scale, generator, images.device), self.scale[0], self.fill)
