"""Some images are blurred by a Gaussian, each by one of its own width."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from runner.augmentation.base import Transform
from runner.augmentation.color import chosen, drawn, strengths, unit
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import Fraction, NonNegative, Whole


def gaussian(sigma: Tensor, size: int) -> Tensor:
    """Weights `[B, size]` that add up to 1, for deviations `sigma [B]` in pixels; at 0 the middle has it all."""
    place = torch.arange(size, device=sigma.device) - size // 2
    return (-0.5 * (place / sigma.clamp(min=1e-3)[:, None]) ** 2).softmax(1)


def blur(images: Tensor, weights: Tensor) -> Tensor:
    """Floats `[B, C, H, W]`, each convolved with its row of `weights [B, K]` down and across, mirrored at the edges."""
    height, width = images.shape[-2:]
    taps = weights.T[..., None, None, None]  # [K, B, 1, 1, 1]
    # Sums of shifted images: for kernels of this length twice to five times as fast as a convolution in B * C groups.
    padded = pad(images, (weights.shape[1] // 2,) * 4, mode="reflect")
    down = padded[:, :, :height] * taps[0]
    for i, tap in enumerate(taps[1:], 1):
        down.addcmul_(padded[:, :, i : i + height], tap)
    across = down[..., :width] * taps[0]
    for i, tap in enumerate(taps[1:], 1):
        across.addcmul_(down[..., i : i + width], tap)
    return across


class Blur(Transform):
    """kernel_size: pixels, odd; `auto`: about a tenth of the side, at least 3 (Chen et al. 2020, SimCLR, appendix A).

    sigma: deviation in pixels, or [MIN,MAX] from which each image draws.
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
        self.sigma = strengths("augmentation.blur.sigma", sigma)

    def length(self, side: int) -> int:
        """Pixels of the kernel for images of a side."""
        return max(3, side // 10 | 1) if self.kernel_size == "auto" else self.kernel_size

    def check(self, context: Context) -> str | None:
        side, size = context.image_size, self.length(context.image_size)
        if size // 2 < side:
            return None
        return (
            f"augmentation.blur.kernel_size={self.kernel_size}: would mirror {size // 2} pixels at each edge of images "
            f"of {side}; use at most {2 * side - 1}, or auto"
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        sigma = drawn(images, self.sigma, generator) * chosen(images, self.p, generator)
        return blur(unit(images), gaussian(sigma.flatten(), self.length(images.shape[-1])))
