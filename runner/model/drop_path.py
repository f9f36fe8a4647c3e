"""The layer of stochastic depth. Imports no torchvision, because that takes seconds."""

from typing import Literal

import torch
from torch import Tensor, nn

from runner.model.noise import Noise, mask


class DropPath(Noise):
    """Drop path: zeros a residual branch `[B, ...]` with probability p while training, else divides it by `1 - p`.

    So the mean over draws is the branch itself, and the layer is the identity at test time. The paper (section 3)
    trains without the division and multiplies by `1 - p` at test time. per: one draw per sample, or one per batch.
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
        """Apply to a branch as its module's forward hook. A bound method, so that a deep copy gets its own hook."""
        return self(branch)

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}, per={self.per}"
