"""Gaussian blur of random images, with a random width for each."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from runner.augmentation.base import Transform
from runner.augmentation.color import draw_mask, draw_values, to_float, to_range
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import Fraction, NonNegative, Whole


def gaussian_kernel(sigma: Tensor, size: int) -> Tensor:
    """Return weights `[B, size]` of sum 1 for standard deviations `sigma [B]` in pixels. 0 is the identity."""
    offset = torch.arange(size, device=sigma.device) - size // 2
    return (-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2).softmax(1)


def blur(images: Tensor, weights: Tensor) -> Tensor:
    """Convolve each image `[B, C, H, W]` (float) with its row of `weights [B, K]` along both axes.

    The edges are padded by reflection.
    """
    height, width = images.shape[-2:]
    taps = weights.T[..., None, None, None]  # [K, B, 1, 1, 1]
    # Sums of shifted images, because for kernels of this length they are 2 to 5 times as fast as a convolution with
    # B * C groups.
    padded = pad(images, (weights.shape[1] // 2,) * 4, mode="reflect")
    down = padded[:, :, :height] * taps[0]
    for i, tap in enumerate(taps[1:], 1):
        down.addcmul_(padded[:, :, i : i + height], tap)
    across = down[..., :width] * taps[0]
    for i, tap in enumerate(taps[1:], 1):
        across.addcmul_(down[..., i : i + width], tap)
    return across


class Blur(Transform):
    """Gaussian blur of each image with probability p.

    kernel_size: pixels, odd; `auto`: about a tenth of the side, at least 3 (Chen et al. 2020, SimCLR, appendix A).
    sigma: standard deviation in pixels, or [MIN,MAX] to draw it from for each image.
    """

    def __init__(
        self,
        kernel_size: Whole | Literal["auto"] = "auto",
        sigma: NonNegative | tuple[NonNegative, NonNegative] = (0.1, 2.0),
        p: Fraction = 0.5,
    ):
        if kernel_size != "auto" and (kernel_size < 3 or kernel_size % 2 == 0):
            raise ConfigError(f"augmentation.blur.kernel_size={kernel_size}: must be auto, or an odd number from 3 on")
        self.kernel_size, self.p = kernel_size, p
        self.sigma = to_range("augmentation.blur.sigma", sigma)

    def kernel_length(self, side: int) -> int:
        """Return the kernel's length in pixels for images of a side."""
        return max(3, side // 10 | 1) if self.kernel_size == "auto" else self.kernel_size

    def check(self, context: Context) -> str | None:
        side, size = context.image_size, self.kernel_length(context.image_size)
        if size // 2 < side:
            return None
        return (
            f"augmentation.blur.kernel_size={self.kernel_size}: would mirror {size // 2} pixels at each edge of images "
            f"of {side}; use at most {2 * side - 1}, or auto"
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        sigma = draw_values(images, self.sigma, generator) * draw_mask(images, self.p, generator)
        return blur(to_float(images), gaussian_kernel(sigma.flatten(), self.kernel_length(images.shape[-1])))
