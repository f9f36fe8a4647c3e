"""Parameters as one vector, Hessian products and backtracking for second-order methods."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor


class LossClosure(Protocol):
    """Closure for the loss of one step. A call returns the loss and sets the gradients, as in torch."""

    def __call__(self) -> Tensor: ...

    def value(self) -> Tensor:
        """Return the loss without gradients."""

    def pieces(self) -> Iterator[Tensor]:
        """Yield losses with graphs that sum to the loss."""


class Flat:
    """Parameters as one vector `[N]`, in logical order for any memory format."""

    def __init__(self, params: list[Tensor]):
        self.params = params
        self.sizes = [p.numel() for p in params]

    def __len__(self) -> int:
        return sum(self.sizes)

    def get(self) -> Tensor:
        """Return a copy of the vector."""
        return torch.cat([p.detach().reshape(-1) for p in self.params])

    def set(self, vector: Tensor) -> None:
        """Set the parameters from a vector."""
        for p, part in zip(self.params, self.split(vector)):
            p.copy_(part)

    def gradient(self) -> Tensor:
        """Return the gradient `[N]`, with zeros for parameters without `grad`."""
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self.params])

    def split(self, vectors: Tensor) -> list[Tensor]:
        """Split `[..., N]` into one tensor per parameter, in its shape."""
        ends = accumulate(self.sizes)
        return [
            vectors[..., end - p.numel() : end].reshape(*vectors.shape[:-1], *p.shape)
            for p, end in zip(self.params, ends)
        ]


class Curvature:
    """Hessian of a loss with a graph, as products with vectors, by a backward pass through the gradient."""

    def __init__(self, loss: Tensor, flat: Flat):
        self.flat = flat
        with torch.enable_grad():
            first = torch.autograd.grad(loss, flat.params, create_graph=True, materialize_grads=True)
        self._first = [(index, gradient) for index, gradient in enumerate(first) if gradient.requires_grad]

    def product(self, vector: Tensor) -> Tensor:
        """Return `H v` for a vector `[N]`."""
        return self._products(vector, batched=False)

    def products(self, vectors: Tensor) -> Tensor:
        """Return `H v` for each of `[K, N]`, in one batched pass."""
        return self._products(vectors, batched=True)

    def _products(self, vectors: Tensor, batched: bool) -> Tensor:
        if not self._first:  # a linear loss
            return torch.zeros_like(vectors)
        parts = self.flat.split(vectors)
        rows = torch.autograd.grad(
            [gradient for _, gradient in self._first],
            self.flat.params,
            [parts[index] for index, _ in self._first],
            retain_graph=True,
            is_grads_batched=batched,
            materialize_grads=True,
        )
        lead = vectors.shape[:-1]
        return torch.cat([row.reshape(*lead, -1) for row in rows], -1)


def backtrack(objective: LossClosure, flat: Flat, direction: Tensor, loss: float, slope: float, start: float) -> bool:
    """Move along a direction by backtracking line search; return False without a move if 30 halvings fail.

    The step is halved until the loss decreases by 1e-4 of the linear prediction (Armijo; Nocedal & Wright 2006,
    algorithm 3.1).
    """
    origin, length = flat.get(), start
    for _ in range(30):
        flat.set(origin + length * direction)
        if float(objective.value()) <= loss + 1e-4 * length * slope:
            return True
        length /= 2
    flat.set(origin)
    return False
