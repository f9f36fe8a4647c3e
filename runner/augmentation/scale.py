"""Random scale about the center (scale jittering, Simonyan & Zisserman 2015, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.draws import Level, check_range, draw_uniform
from runner.augmentation.warp import resample, taps
from runner.core.context import Context
from runner.core.schema import Rate
from runner.core.text import shown


def rescale(images: Tensor, factors: Tensor, smallest: float, fill: float = 0) -> Tensor:
    """Resize each of `images [B, C, H, W]` by its own factor [B], then crop or pad it centrally to the old size.

    Bilinear with antialiasing, float32 in [0, 1]. The border around a smaller image is `fill` (0..255). No factor may
    be below `smallest`.
    """
    axes = []
    for side in images.shape[-2:]:
        length = side / factors
        places, weights, centers = taps((side - length) / 2, length, side, 1 / smallest)
        axes.append((places, weights.mul_(((centers > 0) & (centers < side))[:, :, None])))
    return resample(images, *axes, fill)


class Scale(Transform):
    """Uniform random scale. scale: [min, max] of the factor; above 1 enlarges."""

    def __init__(self, scale: Sequence[Rate] = [0.8, 1.2], fill: Level = 0):
        self.scale, self.fill = check_range("augmentation.scale.scale", scale), fill

    def check(self, context: Context) -> str | None:
        side = context.image_size
        if self.scale[0] * side < 1:
            return (
                f"augmentation.scale.scale={shown(self.scale)}: makes less than a pixel of {side}; the smallest factor "
                f"must be at least {1.01 / side:.3g}"
            )
        return None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return rescale(
            images, draw_uniform(len(images), self.scale, generator, images.device), self.scale[0], self.fill
        )
