"""Newton's method with the exact Hessian, for small models."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.model.formulas import twice_differentiable
from runner.optimizer.base import Params, SecondOrder, check_memory
from runner.optimizer.flat_params import Curvature, Flat, LossClosure, backtrack

ROWS = 32  # of the Hessian per batched backward pass


def hessian(objective: LossClosure, flat: Flat) -> Tensor:
    """Return the Hessian `[N, N]` in float64, from products in the parameters' precision."""
    n, like = len(flat), flat.params[0]
    device = "cpu" if like.device.type == "mps" else like.device  # because mps has no float64
    matrix = torch.zeros(n, n, dtype=torch.float64, device=device)
    with torch.enable_grad(), twice_differentiable():
        for piece in objective.pieces():
            curvature = Curvature(piece, flat)
            for start in range(0, n, ROWS):
                units = torch.zeros(min(ROWS, n - start), n, dtype=like.dtype, device=like.device)
                units.diagonal(start).fill_(1)
                matrix[start : start + ROWS] += curvature.products(units).to(device, torch.float64)
    return matrix.add_(matrix.T.clone()).div_(2)


def newton_direction(hessian: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """Return `-H^-1 g` for a positive definite H, else a descent direction that escapes saddles.

    For that, the eigenvalues are replaced by their absolute values, at least `damping` times the largest (Nocedal &
    Wright 2006, section 3.4; Dauphin et al. 2014).
    """
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if not failed:
        return -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
    values, vectors = torch.linalg.eigh(hessian)
    magnitudes = values.abs()
    return -vectors @ (vectors.T @ gradient / magnitudes.clamp_min(damping * magnitudes.max()))


class Newton(SecondOrder):
    """Newton's method `w -= lr * H^-1 g`, with a backtracking line search from `lr`.

    damping: smallest |eigenvalue| used for an indefinite Hessian, as a fraction of the largest.
    max_gb: largest allowed Hessian, 8 bytes an entry. Its factorization needs up to twice that in addition.
    """

    label: ClassVar[str] = "newton"
    differentiates_twice: ClassVar[bool] = True

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        damping: float = 1e-3,
        max_iter: int = 1,
        tolerance_grad: float = 1e-7,
        max_gb: float = 2.0,
    ):
        super().__init__(params, lr, max_iter, tolerance_grad, damping=damping)
        check_memory(self.label, "Hessian", len(self.flat), 8, max_gb)

    def iterate(self, objective: LossClosure, loss: float, gradient: Tensor, group: dict[str, Any]) -> bool:
        """Make one damped Newton step. Return False if no step decreases the loss."""
        matrix = hessian(objective, self.flat)
        exact = gradient.to(matrix.device, torch.float64)
        direction = newton_direction(matrix, exact, group["damping"]).to(gradient)
        return backtrack(objective, self.flat, direction, loss, float(gradient @ direction), group["lr"])
