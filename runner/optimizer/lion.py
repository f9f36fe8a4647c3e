"""Lion: the sign of an interpolated momentum."""

import torch
from torch import Tensor

from runner.optimizer.base import Params


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, algorithm 2).

    `w -= lr * (sign(beta1 m + (1 - beta1) g) + weight_decay * w)`, and then `m = beta2 m + (1 - beta2) g`.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """Update the parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                momentum = state["exp_avg"]
                update = momentum.lerp(p.grad, 1 - beta1).sign_()
                p.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
                momentum.lerp_(p.grad, 1 - beta2)
        return loss
