"""The two-way model metric ~ combination + seed: least-squares means, pooled residual, errors of differences.

Seeds are blocks: what a seed does to all combinations alike (its split of luck) is taken out before they are
compared. See Montgomery, Design and Analysis of Experiments, chapter 4 (randomized and incomplete blocks).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ZERO = 1e-24  # of the sum of squares: what is left of a perfect fit in double precision


@dataclass(frozen=True)
class Fit:
    """`means` [k]: least-squares means, averaged over all seeds as if every combination had run each of them.

    `deviation` is the standard deviation of the pooled residual: None without degrees of freedom, 0.0 where the
    model explains every digit. `blocked` is False where the seeds do not link all combinations: then it is the
    one-way model.
    """

    means: np.ndarray
    counts: np.ndarray  # seeds of each combination [k]
    seeds: int
    deviation: float | None
    df: int
    blocked: bool
    balanced: bool
    _share: np.ndarray  # [k, b]: the weight of each seed in a combination's mean
    _inverse: np.ndarray  # [b, b]: covariance of the seeds' effects over the residual variance

    def error(self, weights: np.ndarray) -> np.ndarray:
        """Standard errors of the sums `weights` [..., k] @ means."""
        own = (weights**2 / self.counts).sum(-1)
        seed = weights @ self._share - weights.sum(-1, keepdims=True) / max(self._share.shape[1], 1)
        between = np.einsum("...i,ij,...j->...", seed, self._inverse, seed)
        return self.deviation * np.sqrt(own + between)

    def difference(self, one: int, others: Sequence[int]) -> np.ndarray:
        """Standard errors of means[one] - means[others], [len(others)]."""
        weights = np.zeros((len(others), len(self.means)))
        weights[:, one] = 1
        weights[np.arange(len(others)), others] -= 1
        return self.error(weights)


def fit(cells: Sequence[Mapping[str, float]]) -> Fit:
    """`cells`: one mapping seed -> value a combination, none of them empty; any of the seeds may be missing."""
    seeds = list(dict.fromkeys(seed for cell in cells for seed in cell))
    values = np.array([[cell.get(seed, np.nan) for seed in seeds] for cell in cells])
    known = ~np.isnan(values)
    counts, filled = known.sum(1), np.where(known, values, 0.0)
    share = known / counts[:, None]
    plain = filled.sum(1) / counts
    # The combinations are eliminated from the normal equations: what is left is as large as the number of seeds.
    reduced = np.diag(known.sum(0).astype(float)) - known.T @ share
    linked = np.linalg.matrix_rank(reduced, hermitian=True) == len(seeds) - 1
    inverse = np.linalg.pinv(reduced, hermitian=True) if linked else np.zeros_like(reduced)
    effects = inverse @ (filled.sum(0) - known.T @ plain)
    own = plain - share @ effects
    residual = np.where(known, values - own[:, None] - effects, 0.0)
    df = int(known.sum()) - len(cells) - (len(seeds) - 1 if linked else 0)
    squares = float((residual**2).sum())
    deviation = None if df < 1 else 0.0 if squares <= _ZERO * float((filled**2).sum()) else (squares / df) ** 0.5
    return Fit(
        means=own + effects.mean(),
        counts=counts,
        seeds=len(seeds),
        deviation=deviation,
        df=df,
        blocked=bool(linked),
        balanced=bool(known.all()),
        _share=share if linked else np.zeros((len(cells), 0)),
        _inverse=inverse if linked else np.zeros((0, 0)),
    )
