"""Gaussian noise on every pixel and channel."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import draw_values, to_float, to_range
from runner.core.schema import Fraction


class GaussianNoise(Transform):
    """Additive noise; the result is clamped to [0, 1].

    std: standard deviation, where white is 1; or [MIN,MAX] to draw it from for each image.
    """

    def __init__(self, std: Fraction | tuple[Fraction, Fraction] = 0.1):
        self.std = to_range("augmentation.gaussian_noise.std", std)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        std = draw_values(images, self.std, generator)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return noise.mul_(std).add_(to_float(images)).clamp_(0, 1)
