"""torch's L-BFGS for the runner's parameter groups."""

from typing import ClassVar

import torch
from torch import Tensor

from runner.optimizer.base import FullBatch, Params, one_group


class LBFGS(FullBatch, torch.optim.LBFGS):
    """L-BFGS (Nocedal & Wright 2006, algorithm 7.5) with a strong-Wolfe line search."""

    label: ClassVar[str] = "lbfgs"

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        max_iter: int = 20,
        history_size: int = 20,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
    ):
        super().__init__(
            one_group(params, self.label),
            lr,
            max_iter,
            None,
            tolerance_grad,
            tolerance_change,
            history_size,
            "strong_wolfe",
        )

    def _gather_flat_grad(self) -> Tensor:
        # reshape instead of torch's view, because channels-last gradients cannot be viewed.
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self._params])
