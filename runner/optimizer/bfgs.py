"""BFGS: the inverse Hessian, kept whole and learnt from changes of the gradient."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.lbfgs import _strong_wolfe

from runner.optimizer.base import FullBatch, Params, check_memory, one_group
from runner.optimizer.flat_params import Flat, LossClosure


def update_inverse(inverse: Tensor, s: Tensor, y: Tensor) -> None:
    """`H <- (I - r s y^T) H (I - r y s^T) + r s s^T` with r = 1 / y^T s, in place, as one product of rank two."""
    scale = 1 / (y @ s)
    image = inverse @ y
    u = (0.5 * scale * (1 + scale * (y @ image))) * s - scale * image
    inverse.addmm_(torch.stack([s, u], 1), torch.stack([u, s]))


class BFGS(FullBatch, torch.optim.Optimizer):
    """Nocedal & Wright 2006, algorithm 6.1, with a strong-Wolfe line search (algorithms 3.5 and 3.6; torch's own).

    max_iter: iterations a step.
    max_gb: the largest inverse Hessian allowed, as many bytes an entry as a parameter has.
    """

    label: ClassVar[str] = "bfgs"

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        max_iter: int = 20,
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
        """`max_iter` iterations, fewer where the gradient is below `tolerance_grad` or nothing falls any more.

        Returns the loss at the start.
        """
        group, flat = self.param_groups[0], self.flat

        def probe(origin: Tensor, length: float, direction: Tensor) -> tuple[float, Tensor]:
            flat.set(origin + length * direction)
            with torch.enable_grad():
                value = float(objective())
            return value, flat.gradient()

        with torch.enable_grad():
            first = objective()
        loss, gradient = float(first), flat.gradient()
        for _ in range(group["max_iter"] if group["lr"] else 0):  # a schedule may end at zero
            if gradient.abs().max() <= group["tolerance_grad"]:
                break
            direction, start = self._direction(gradient, group["lr"])
            origin, slope = flat.get(), gradient @ direction
            reached, after, length, _ = _strong_wolfe(probe, origin, start, direction, loss, gradient, slope)
            if not reached < loss:
                flat.set(origin)
                break
            flat.set(origin + length * direction)
            self._learn(length * direction, after - gradient)
            loss, gradient = reached, after
        return first

    def _direction(self, gradient: Tensor, lr: float) -> tuple[Tensor, float]:
        """`-H g` and the first length to try; downhill until something was learnt, and anew where rounding has made
        H useless."""
        state = self.state[self.flat.params[0]]
        if "inverse" in state:
            direction = -(state["inverse"] @ gradient)
            if gradient @ direction < 0:
                return direction, lr
            del state["inverse"]
        return -gradient, lr * min(1.0, 1.0 / float(gradient.abs().sum()))

    def _learn(self, s: Tensor, y: Tensor) -> None:
        """Takes a step and the gradient's change into the matrix, if they show a positive curvature."""
        state = self.state[self.flat.params[0]]
        curvature = y @ s
        if curvature <= 1e-10 * y.norm() * s.norm():
            return
        if "inverse" not in state:  # the curvature just seen, in every direction (Nocedal & Wright, 6.20)
            state["inverse"] = torch.eye(len(s), dtype=s.dtype, device=s.device) * (curvature / (y @ y))
        update_inverse(state["inverse"], s, y)
