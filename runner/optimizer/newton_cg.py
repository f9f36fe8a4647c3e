"""Newton's method without a matrix: conjugate gradients on Hessian-vector products."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.model.formulas import twice_differentiable
from runner.optimizer.base import Params, SecondOrder
from runner.optimizer.flat_params import Curvature, Flat, LossClosure, backtrack


def hessian_product(objective: LossClosure, flat: Flat, vector: Tensor) -> Tensor:
    """`H v` over all pieces; each piece's graph is freed before the next one is built."""
    total = torch.zeros_like(vector)
    with torch.enable_grad(), twice_differentiable():
        for piece in objective.pieces():
            total += Curvature(piece, flat).product(vector)
    return total


def truncated_cg(product: Callable[[Tensor], Tensor], gradient: Tensor, max_cg: int) -> Tensor:
    """A direction that solves `H p = -g` roughly: until the residual is below min(1/2, sqrt|g|) |g|, or a direction
    has no positive curvature (Nocedal & Wright 2006, algorithm 7.1).

    Where the first direction, -g, has none already, it is returned with length g.g / |g.Hg| times its own, as SciPy's
    Newton-CG has it, so that a small gradient near a saddle still makes a step.
    """
    norm = float(gradient.norm())
    enough = min(0.5, math.sqrt(norm)) * norm
    found, residual = torch.zeros_like(gradient), gradient.clone()
    direction, square = -residual, float(residual @ residual)
    for iteration in range(max_cg):
        bent = product(direction)
        curvature = float(direction @ bent)
        if curvature <= 0:
            if iteration:
                return found
            return direction * (square / -curvature) if curvature < 0 else direction
        length = square / curvature
        found += length * direction
        residual += length * bent
        before, square = square, float(residual @ residual)
        if math.sqrt(square) <= enough:
            break
        direction = -residual + (square / before) * direction
    return found


class NewtonCG(SecondOrder):
    """Line-search Newton-CG: `w += length * p`, backtracking from `lr`.

    max_cg: Hessian-vector products a step at most, each about two passes over the data.
    """

    label: ClassVar[str] = "newton_cg"
    differentiates_twice: ClassVar[bool] = True

    def __init__(
        self, params: Params, lr: float = 1.0, max_cg: int = 50, max_iter: int = 1, tolerance_grad: float = 1e-7
    ):
        super().__init__(params, lr, max_iter, tolerance_grad, max_cg=max_cg)

    def iterate(self, objective: LossClosure, loss: float, gradient: Tensor, group: dict[str, Any]) -> bool:
        """Stays where no step along the direction makes the loss fall."""
        direction = truncated_cg(lambda v: hessian_product(objective, self.flat, v), gradient, group["max_cg"])
        return backtrack(objective, self.flat, direction, loss, float(gradient @ direction), group["lr"])
