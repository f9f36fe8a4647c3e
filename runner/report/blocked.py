"""The two-way model metric ~ combination + seed: least-squares means, pooled residual, errors of differences.

Seeds are blocks: what a seed does to all combinations alike (its split of luck) is taken out before they are
compared. See Montgomery, Design and Analysis of Experiments, chapter 4 (randomized and incomplete blocks).

Combinations may spread differently over the seeds. Their own variances are estimated from the squared residuals of the
same model, so that their expectations are met (MINQUE with equal prior weights, Rao 1970; with complete blocks the
estimates of Grubbs 1948, without blocks the sample variances).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ZERO = 1e-24  # of the sum of squares: what is left of a perfect fit in double precision
_MOST_JOINT = 1000  # combinations, above which each variance is estimated as if all others were equal to it


@dataclass(frozen=True)
class Fit:
    """`means` [k]: least-squares means, averaged over all seeds as if every combination had run each of them.

    `deviation` is the standard deviation of the pooled residual: None without degrees of freedom, 0.0 where the
    model explains every digit. `blocked` is False where the seeds do not link all combinations: then it is the
    one-way model. `variances` [k]: each combination's own residual variance, which may come out below zero; NaN where
    its residuals say nothing of it.
    """

    means: np.ndarray
    counts: np.ndarray  # seeds of each combination [k]
    deviation: float | None
    df: int
    blocked: bool
    balanced: bool
    variances: np.ndarray
    noise: np.ndarray  # [k, k]: covariance of `variances` i and j, over 2 variances[i] variances[j]
    _share: np.ndarray  # [k, b]: the weight of each seed in a combination's mean
    _inverse: np.ndarray  # [b, b]: covariance of the seeds' effects over the residual variance
    _own: np.ndarray  # [b, b]: covariance of the seeds' effects under the combinations' own variances

    def difference(self, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the standard errors of means[ones] - means[others] by the pooled residual."""
        between = self._between(ones, others, self._inverse)
        return self.deviation * np.sqrt(1 / self.counts[ones] + 1 / self.counts[others] + between)

    def own_difference(self, ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the standard errors of means[ones] - means[others] by the variances of the two combinations, and
        their degrees of freedom (Satterthwaite 1946).

        The error is infinite where a variance is not known.
        """
        parts = [self.variances[at] / self.counts[at] for at in (ones, others)]
        squares = parts[0] + parts[1] + self._between(ones, others, self._own)
        least = self.least  # rounding and chance may take the estimate below zero: the pooled error then decides
        error = np.sqrt(np.where(np.isnan(squares), np.inf, np.maximum(squares, least)))
        one, other = (np.maximum(part, 0) for part in parts)
        noise = self.noise[ones, ones] * one**2 + self.noise[others, others] * other**2
        noise += 2 * self.noise[ones, others] * one * other
        df = (one + other) ** 2 / np.maximum(noise, least**2)
        fewest, all_of_both = (of(self.counts[ones] - 1, self.counts[others] - 1) for of in (np.minimum, np.add))
        return error, np.clip(np.nan_to_num(df), np.maximum(fewest, 1), np.maximum(all_of_both, 1))

    @property
    def least(self) -> float:
        """A variance that counts as none."""
        return 1e-12 * (self.deviation or 0.0) ** 2

    def _between(self, ones: np.ndarray, others: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Return the part of a difference's variance that comes from the seeds' effects: none in complete blocks."""
        share = self._share[ones] - self._share[others]
        return np.einsum("pi,ij,pj->p", share, covariance, share)


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
    # Each combination's part of the seeds' normal equations [k, b, b].
    parts = np.eye(len(seeds)) * known[:, None, :] - known[:, :, None] * share[:, None, :]
    variances, noise = _variances((residual**2).sum(1), counts, inverse @ parts)
    return Fit(
        means=own + effects.mean(),
        counts=counts,
        deviation=deviation,
        df=df,
        blocked=bool(linked),
        balanced=bool(known.all()),
        variances=variances,
        noise=noise,
        _share=share if linked else np.zeros((len(cells), 0)),
        _inverse=inverse if linked else np.zeros((0, 0)),
        _own=inverse @ np.einsum("k,kij->ij", np.nan_to_num(variances), parts) @ inverse
        if linked
        else np.zeros((0, 0)),
    )


def _variances(squares: np.ndarray, counts: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the combinations' own variances, and their covariances over twice their products.

    squares: of the residuals [k]. taken [k, b, b]: the share of a combination's information that the seeds' effects
    took, `inverse @ part`. The expected squares of combination i are the sum over j of M[i, j] times variance j, where
    M[i, j] is the sum of the squared elements of block (i, j) of the residual-forming matrix.
    """
    traces = np.trace(taken, axis1=1, axis2=2)
    flat = taken.reshape(len(taken), -1)
    crossed = taken.transpose(0, 2, 1).reshape(len(taken), -1)
    own = counts - 1 - 2 * traces
    known = own + (flat * crossed).sum(1) > 1e-9
    if len(squares) > _MOST_JOINT:
        weight = np.maximum(own + flat @ crossed.sum(0), 1e-9)
        variances, noise = squares / weight, np.diag(1 / weight)
    else:
        noise = np.linalg.pinv(np.diag(own) + flat @ crossed.T, rcond=1e-10, hermitian=True)
        variances = noise @ squares
    return np.where(known, variances, np.nan), noise
