"""Norms of gradients and updates by stage, and the curvature of the loss.

Probes measure two successive steps at an interval: `grad_norm/<stage>`, `update_norm/<stage>`,
`update_ratio/<stage>` (norm of the update over norm of the weights), `effective_rate/<stage>` (norm of the update over
norm of the gradient), and `update_cosine` between the two updates of the whole network. Near -1 a step undoes
the last one, as plain SGD does across a ravine.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.model.formulas import twice_differentiable

Stages = list[tuple[str, list[Tensor]]]

TINY = 1e-30  # lower bound of denominators that may be zero
LARGE = 10_000_000  # parameters from which Lanczos keeps few vectors: twenty of 86 million doubles are 14 GB


class Probe:
    """Probe of the steps `every - 1` and `every`, `2 every - 1` and `2 every`, ... (counted from 1).

    The values stay on the device until `read`. every: 0 measures nothing.
    """

    def __init__(self, stages: Stages, every: int):
        self.stages = [(name, parameters) for name, parameters in stages if parameters]
        self.every = every
        self._before: list[Tensor] = []
        self._last: list[Tensor] | None = None
        self._gradients: Tensor | None = None
        self._values: Tensor | None = None

    def due(self, step: int) -> bool:
        """Return whether step number `step`, from 0, is measured."""
        return self.every > 0 and (step + 1) % self.every in (0, self.every - 1)

    @torch.no_grad()
    def before(self) -> None:
        """Record weights and gradient norms, before the optimizer's step."""
        parameters = [p for _, group in self.stages for p in group]
        self._before = [p.detach().clone() for p in parameters]
        self._gradients = self._norms([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Measure the update, after the optimizer's step."""
        parameters = [p for _, group in self.stages for p in group]
        updates = torch._foreach_sub(parameters, self._before)
        if (step + 1) % self.every == 0:
            weights, moved = self._norms(self._before), self._norms(updates)
            missing = torch.full_like(moved[:1], torch.nan)  # the run resumed between the two steps
            cosine = missing if self._last is None else _cosine(updates, self._last)
            ratios = (moved / weights.clamp_min(TINY), moved / self._gradients.clamp_min(TINY))
            self._values = torch.cat((self._gradients, moved, *ratios, cosine))
        self._last = updates
        self._before = []

    def read(self) -> dict[str, float]:
        """Return what was measured since the last call; waits for the device."""
        if self._values is None:
            return {}
        values, self._values = self._values.tolist(), None
        names = [name for name, _ in self.stages]
        tags = [
            f"{kind}/{name}"
            for kind in ("grad_norm", "update_norm", "update_ratio", "effective_rate")
            for name in names
        ]
        scalars = dict(zip([*tags, "update_cosine"], values, strict=True))
        return {tag: value for tag, value in scalars.items() if value == value}  # no NaN

    def state_dict(self) -> dict[str, Any]:
        """Return everything that is measured and not read yet, for a checkpoint."""
        return {"last": self._last, "found": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self._last, self._values = state["last"], state["found"]

    def _norms(self, tensors: list[Tensor]) -> Tensor:
        """Return the norm of each stage, `[stages]`."""
        each = torch.stack(torch._foreach_norm(tensors)).square()
        counts = torch.tensor([len(group) for _, group in self.stages], device=each.device)
        owner = torch.repeat_interleave(
            torch.arange(len(self.stages), device=each.device), counts, output_size=len(each)
        )
        return torch.zeros(len(self.stages), device=each.device, dtype=each.dtype).index_add_(0, owner, each).sqrt()


def _cosine(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Return the cosine between two lists of tensors, each flattened to one vector, `[1]`."""
    dot = torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
    norms = [torch.stack(torch._foreach_norm(x)).square().sum().sqrt() for x in (a, b)]
    return (dot / (norms[0] * norms[1]).clamp_min(TINY)).view(1)


def hessian_ends(
    parameters: list[Tensor], pieces: Callable[[], Iterator[Tensor]], seed: int = 0
) -> tuple[float, float]:
    """Return the smallest and the largest eigenvalue of a loss's Hessian, by Lanczos on Hessian-vector products.

    pieces: yields losses with their graphs; they add up to the loss. SciPy's `eigsh` is ARPACK's implicitly restarted
    Lanczos (Lehoucq, Sorensen & Yang 1998). A Hessian of up to 16 rows is computed in full.
    """
    sizes = [p.numel() for p in parameters]
    count, like = sum(sizes), parameters[0]
    dtype, vectors = (np.float32, 8) if count > LARGE else (np.float64, None)  # None: SciPy's default, twenty

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.as_tensor(vector.reshape(-1), dtype=like.dtype, device=like.device).split(sizes)
        total = torch.zeros(count, dtype=like.dtype, device=like.device)
        with twice_differentiable():
            for loss in pieces():
                gradients = torch.autograd.grad(
                    loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
                )
                along = sum((g * d.view_as(g)).sum() for g, d in zip(gradients, direction, strict=True))
                second = torch.autograd.grad(along, parameters, allow_unused=True, materialize_grads=True)
                total += torch.cat([s.reshape(-1) for s in second])
        return total.cpu().numpy().astype(dtype)

    if count <= 16:
        values = np.linalg.eigvalsh(np.stack([product(row) for row in np.eye(count)]))
        return float(values[0]), float(values[-1])
    from scipy.sparse.linalg import LinearOperator, eigsh  # takes 0.3 s, and few runs need it

    start = np.random.default_rng(seed).standard_normal(count, dtype=dtype)
    operator = LinearOperator((count, count), matvec=product, dtype=dtype)
    values = eigsh(operator, k=2, which="BE", v0=start, ncv=vectors, tol=1e-3, return_eigenvectors=False)
    return float(min(values)), float(max(values))
