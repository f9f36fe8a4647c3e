"""Newton-CG: Newton's method by conjugate gradients on Hessian-vector products, without the matrix."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.model.formulas import twice_differentiable
from runner.optimizer.base import Params, SecondOrder
from runner.optimizer.flat_params import Curvature, Flat, LossClosure, backtrack


def hessian_product(objective: LossClosure, flat: Flat, vector: Tensor) -> Tensor:
    """Return `H v` summed over all pieces. Each piece's graph is freed before the next one is built."""
    total = torch.zeros_like(vector)
    with torch.enable_grad(), twice_differentiable():
        for piece in objective.pieces():
            total += Curvature(piece, flat).product(vector)
    return total


def truncated_cg(product: Callable[[Tensor], Tensor], gradient: Tensor, max_cg: int) -> Tensor:
    """Return an approximate solution of `H p = -g` by conjugate gradients (Nocedal & Wright 2006, algorithm 7.1).

    Stops when the residual is below min(1/2, sqrt|g|) |g|, or at a direction without positive curvature. If that is
    the first direction, -g, it is returned times g.g / |g.Hg|, as in SciPy's Newton-CG, so that a small gradient near
    a saddle still makes a step.
    """
    norm = float(gradient.norm())
    tolerance = min(0.5, math.sqrt(norm)) * norm
    solution, residual = torch.zeros_like(gradient), gradient.clone()
    direction, square = -residual, float(residual @ residual)
    for iteration in range(max_cg):
        product_vector = product(direction)
        curvature = float(direction @ product_vector)
        if curvature <= 0:
            if iteration:
                return solution
            return direction * (square / -curvature) if curvature < 0 else direction
        length = square / curvature
        solution += length * direction
        residual += length * product_vector
        before, square = square, float(residual @ residual)
        if math.sqrt(square) <= tolerance:
            break
        direction = -residual + (square / before) * direction
    return solution


class NewtonCG(SecondOrder):
    """Line-search Newton-CG: `w += length * p`, backtracking from `lr`.

    max_cg: upper bound on the Hessian-vector products per iteration. Each costs about two passes over the data.
    """

    label: ClassVar[str] = "newton_cg"
    differentiates_twice: ClassVar[bool] = True

    def __init__(
        self, params: Params, lr: float = 1.0, max_cg: int = 50, max_iter: int = 1, tolerance_grad: float = 1e-7
    ):
        super().__init__(params, lr, max_iter, tolerance_grad, max_cg=max_cg)

    def iterate(self, objective: LossClosure, loss: float, gradient: Tensor, group: dict[str, Any]) -> bool:
        """Make one Newton-CG step. Return False if no step decreases the loss."""
        direction = truncated_cg(lambda v: hessian_product(objective, self.flat, v), gradient, group["max_cg"])
        return backtrack(objective, self.flat, direction, loss, float(gradient @ direction), group["lr"])
