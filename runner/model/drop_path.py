"""The layer of stochastic depth, apart from torchvision's blocks, whose import takes seconds."""

from typing import Literal

import torch
from torch import Tensor, nn

from runner.model.noise import Noise, mask


class DropPath(Noise):
    """Zeros a residual branch `[B, ...]` with probability p while training, and divides it by `1 - p` where it is kept.

    So the mean over draws is the branch itself, and testing changes nothing (the paper, section 3, trains without the
    division and multiplies by `1 - p` at test time). per: each sample of a batch draws for itself, or one draw is for
    all of them.
    """

    item = "stochastic_depth"

    def __init__(self, p: float, per: Literal["sample", "batch"], noise: torch.Generator | None):
        super().__init__(noise)
        self.p, self.per = p, per

    def forward(self, branch: Tensor) -> Tensor:
        if not self.active or self.p == 0:
            return branch
        rows = len(branch) if self.per == "sample" else 1
        return branch * mask(branch.new_empty((rows,) + (1,) * (branch.ndim - 1)), self.p, self.noise)

    def hook(self, module: nn.Module, inputs: tuple[Tensor, ...], branch: Tensor) -> Tensor:
        """As a forward hook of the module that gives the branch; bound, so that a deep copy has hooks of its own."""
        return self(branch)

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}, per={self.per}"
