"""mixup (Zhang et al. 2018): training on weighted means of two images and of their targets."""

from typing import Literal

import torch
from torch import Tensor

from runner.core.schema import Fraction, Rate
from runner.regularization.mixing import Mixer, beta


class MixUp(Mixer):
    """mixup with shares from Beta(alpha, alpha): near 0 and 1 for a small alpha, near one half for a large one."""

    def __init__(self, alpha: Rate = 0.2, per: Literal["batch", "sample"] = "batch", p: Fraction = 1.0):
        super().__init__(per, p)
        self.alpha = alpha

    def shares(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        return beta(self.alpha, count, generator).view(-1, 1, 1, 1)
