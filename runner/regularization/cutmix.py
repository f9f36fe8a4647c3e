"""CutMix (Yun et al. 2019): a box of the image is another image's; targets are mixed by area."""

from typing import Literal

import torch
from torch import Tensor

from runner.core.schema import Fraction, Rate
from runner.regularization.mixing import Mixer, beta


def outside(share: Tensor, centre: Tensor, size: tuple[int, int]) -> Tensor:
    """1.0 outside of a box and 0.0 inside, `[B, 1, H, W]`, for `size` `(H, W)`.

    share: `[B]`, of the area that the box leaves; its sides are `sqrt(1 - share)` of the image's (section 3.2), in
    whole pixels to both sides of its centre, as in torchvision. centre: `[2, B]`, row and column. What reaches over
    the border is cut off, so that more than `share` may be left.
    """
    inside = []
    for side, middle in zip(size, centre):
        half = ((1 - share).sqrt() * (0.5 * side)).floor()[:, None]
        pixels = torch.arange(side, device=share.device) - middle[:, None]
        inside.append((-half <= pixels) & (pixels < half))
    rows, columns = inside
    return 1.0 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


def cut(alpha: float, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random boxes as `outside` marks them: shares are Beta(alpha, alpha), centres are anywhere in the image."""
    share, device = beta(alpha, count, generator), generator.device
    centre = [torch.randint(side, (count,), generator=generator, device=device) for side in size]
    return outside(share, torch.stack(centre), size)


class CutMix(Mixer):
    def __init__(self, alpha: Rate = 1.0, per: Literal["batch", "sample"] = "batch", p: Fraction = 1.0):
        super().__init__(per, p)
        self.alpha = alpha

    def shares(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        return cut(self.alpha, count, size, generator)
