"""BFGS with a dense inverse Hessian, estimated from changes of the gradient."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

from runner.optimizer.base import FullBatch, Params, check_memory, one_group
from runner.optimizer.flat_params import Flat, LossClosure


def update_inverse(inverse: Tensor, s: Tensor, y: Tensor) -> None:
    """Update H to `(I - r s y^T) H (I - r y s^T) + r s s^T`, r = 1 / y^T s, in place as one rank-two product."""
    scale = 1 / (y @ s)
    inverse_y = inverse @ y
    u = (0.5 * scale * (1 + scale * (y @ inverse_y))) * s - scale * inverse_y
    inverse.addmm_(torch.stack([s, u], 1), torch.stack([u, s]))


class BFGS(FullBatch, torch.optim.Optimizer):
    """BFGS (Nocedal & Wright 2006, algorithm 6.1) with torch's strong-Wolfe line search (algorithms 3.5 and 3.6).

    max_iter: iterations per step.
    max_gb: largest allowed inverse Hessian; its entries have the parameters' precision.
    """

    label: ClassVar[str] = "bfgs"

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        max_iter: int = 5,
        tolerance_grad: float = 1e-7,
        max_gb: float = 2.0,
    ):
        super().__init__(
            one_group(params, self.label), {"lr": lr, "max_iter": max_iter, "tolerance_grad": tolerance_grad}
        )
        self.flat = Flat(self.param_groups[0]["params"])
        size = self.flat.params[0].element_size()
        check_memory(self.label, "inverse Hessian", len(self.flat), size, max_gb)

    @torch.no_grad()
    def step(self, objective: LossClosure) -> Tensor:  # type: ignore[override]
        """Run up to `max_iter` iterations; return the loss at the start.

        Stops early if the gradient is below `tolerance_grad` or the loss does not decrease.
        """
        group, flat = self.param_groups[0], self.flat

        def evaluate(origin: Tensor, length: float, direction: Tensor) -> tuple[float, Tensor]:
            flat.set(origin + length * direction)
            with torch.enable_grad():
                value = float(objective())
            return value, flat.gradient()

        with torch.enable_grad():
            first = objective()
        loss, gradient = float(first), flat.gradient()
        for _ in range(group["max_iter"] if group["lr"] else 0):  # because a schedule may end at zero
            if gradient.abs().max() <= group["tolerance_grad"]:
                break
            direction, start = self._direction(gradient, group["lr"])
            origin, slope = flat.get(), gradient @ direction
            new_loss, new_gradient, length, _ = _strong_wolfe(evaluate, origin, start, direction, loss, gradient, slope)
            if not new_loss < loss:
                flat.set(origin)
                break
            flat.set(origin + length * direction)
            self._update(length * direction, new_gradient - gradient)
            loss, gradient = new_loss, new_gradient
        return first

    def _direction(self, gradient: Tensor, lr: float) -> tuple[Tensor, float]:
        """Return `-H g` and the first step length to try, or the negative gradient while there is no usable H.

        H is discarded if, by rounding errors, its direction is not a descent direction.
        """
        state = self.state[self.flat.params[0]]
        if "inverse" in state:
            direction = -(state["inverse"] @ gradient)
            if gradient @ direction < 0:
                return direction, lr
            del state["inverse"]
        return -gradient, lr * min(1.0, 1.0 / float(gradient.abs().sum()))

    def _update(self, s: Tensor, y: Tensor) -> None:
        """Update the inverse Hessian by a step s and the gradient's change y, if their curvature is positive."""
        state = self.state[self.flat.params[0]]
        curvature = y @ s
        if curvature <= 1e-10 * y.norm() * s.norm():
            return
        if "inverse" not in state:  # start with a multiple of the identity (Nocedal & Wright, 6.20)
            state["inverse"] = torch.eye(len(s), dtype=s.dtype, device=s.device) * (curvature / (y @ y))
        update_inverse(state["inverse"], s, y)
