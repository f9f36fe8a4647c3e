"""A random choice of CutMix or mixup for each batch or sample, as in DeiT (Touvron et al. 2021) and timm."""

from typing import Literal

import torch
from torch import Tensor

from runner.core.schema import Fraction, Rate
from runner.regularization.cutmix import cut
from runner.regularization.mixing import Mixer, beta


class CutMixOrMixUp(Mixer):
    """Random choice between CutMix and mixup. cutmix_p: probability of CutMix, given that there is mixing."""

    def __init__(
        self,
        mixup_alpha: Rate = 0.2,
        cutmix_alpha: Rate = 1.0,
        cutmix_p: Fraction = 0.5,
        per: Literal["batch", "sample"] = "batch",
        p: Fraction = 1.0,
    ):
        super().__init__(per, p)
        self.mixup_alpha, self.cutmix_alpha, self.cutmix_p = mixup_alpha, cutmix_alpha, cutmix_p

    def shares(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        cuts = torch.rand((count, 1, 1, 1), generator=generator, device=generator.device) < self.cutmix_p
        boxes = cut(self.cutmix_alpha, count, size, generator)
        return torch.where(cuts, boxes, beta(self.mixup_alpha, count, generator).view(-1, 1, 1, 1))
