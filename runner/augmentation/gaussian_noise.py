"""Normal noise on every pixel and channel."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import drawn, strengths, unit
from runner.core.schema import Fraction


class GaussianNoise(Transform):
    """std: deviation, where white is 1, or [MIN,MAX] from which each image draws; what leaves 0..1 is cut off."""

    def __init__(self, std: Fraction | tuple[Fraction, Fraction] = 0.1):
        self.std = strengths("augmentation.gaussian_noise.std", std)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        std = drawn(images, self.std, generator)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return noise.mul_(std).add_(unit(images)).clamp_(0, 1)
