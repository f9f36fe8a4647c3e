"""CutMix (Yun et al. 2019): a box of each image comes from another one; targets are mixed by area."""

from typing import Literal

import torch
from torch import Tensor

from runner.core.schema import Fraction, Rate
from runner.regularization.mixing import Mixer, beta


def outside(share: Tensor, center: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a mask `[B, 1, H, W]`, 1.0 outside a box and 0.0 inside, for `size` `(H, W)`.

    share: `[B]`, the fraction of the area outside the box. The box's sides are `sqrt(1 - share)` of the image's
    (section 3.2), in whole pixels to both sides of its center, as in torchvision.
    center: `[2, B]`, row and column. The box is cut at the image's border, so more than `share` may stay outside.
    """
    inside = []
    for side, position in zip(size, center):
        half = ((1 - share).sqrt() * (0.5 * side)).floor()[:, None]
        pixels = torch.arange(side, device=share.device) - position[:, None]
        inside.append((-half <= pixels) & (pixels < half))
    rows, columns = inside
    return 1.0 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


def cut(alpha: float, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return the `outside` masks of random boxes: shares from Beta(alpha, alpha), centers uniform in the image."""
    share, device = beta(alpha, count, generator), generator.device
    center = [torch.randint(side, (count,), generator=generator, device=device) for side in size]
    return outside(share, torch.stack(center), size)


class CutMix(Mixer):
    def __init__(self, alpha: Rate = 1.0, per: Literal["batch", "sample"] = "batch", p: Fraction = 1.0):
        super().__init__(per, p)
        self.alpha = alpha

    def shares(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        return cut(self.alpha, count, size, generator)
