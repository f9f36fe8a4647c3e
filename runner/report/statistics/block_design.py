"""The two-way model metric ~ combination + seed: least-squares means, pooled residual, errors of differences.

Seeds are blocks: an effect of a seed on all combinations (such as its split of the data) is removed before they are
compared. See Montgomery, Design and Analysis of Experiments, chapter 4 (randomized and incomplete blocks).

Combinations may have different variances over the seeds. These are estimated from the squared residuals of the same
model, without bias (MINQUE with equal prior weights, Rao 1970). With complete blocks they are the estimates of
Grubbs 1948, without blocks the sample variances.

Values may have leading dimensions, [..., k, b]: many draws of the same layout, as in benchmarks/false_alarms.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ZERO = 1e-24  # share of the sum of squares that rounding leaves of a perfect fit in double precision
_MOST_JOINT = 1000  # with more combinations, each variance is estimated as if all others were equal to it


@dataclass(frozen=True)
class BlockDesign:
    """BlockDesign: which combination ran which seed, `known` [k, b], and the quantities that depend on this alone.

    `blocked` is False if the seeds do not link all combinations; the model is then metric ~ combination.
    """

    known: np.ndarray
    counts: np.ndarray  # seeds of each combination [k]
    df: int  # of the pooled residual
    blocked: bool
    share: np.ndarray  # [k, b]: the weight of each seed in a combination's mean
    inverse: np.ndarray  # [b, b]: covariance of the seeds' effects over the residual variance; zero without blocks
    parts: np.ndarray  # [k, b, b]: each combination's part of the seeds' normal equations
    determined: np.ndarray  # [k]: whether the residuals determine a combination's own variance
    noise: np.ndarray  # [k, k]: covariance of the variances i and j, over 2 variances[i] variances[j]

    @property
    def balanced(self) -> bool:
        """Return whether every combination ran every seed."""
        return bool(self.known.all())

    @property
    def rows(self) -> np.ndarray:
        """Return the combination of each value `values[known]`."""
        return np.nonzero(self.known)[0]

    @property
    def seeds(self) -> np.ndarray:
        """Return the seed of each value `values[known]`."""
        return np.nonzero(self.known)[1]


@dataclass(frozen=True)
class Fit:
    """Fit: the estimates of the model.

    `means` [..., k]: least-squares means, averaged over all seeds as if every combination had run each of them.
    `deviation` [...] is the standard deviation of the pooled residual: None without degrees of freedom, 0.0 for a
    perfect fit. `variances` [..., k]: each combination's own residual variance. An estimate may be negative, and is
    NaN if the residuals do not determine it.
    """

    layout: BlockDesign
    means: np.ndarray
    deviation: float | np.ndarray | None
    variances: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Return the number of seeds of each combination [k]."""
        return self.layout.counts

    @property
    def least(self) -> np.ndarray:
        """Return the variance [...] up to which a variance counts as zero."""
        return 1e-12 * np.square(self.deviation or 0.0 if np.ndim(self.deviation) == 0 else self.deviation)

    def difference(self, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the standard errors of means[ones] - means[others] by the pooled residual."""
        between = self._between(ones, others, self.layout.inverse)
        errors = np.sqrt(1 / self.counts[ones] + 1 / self.counts[others] + between)
        return np.asarray(self.deviation)[..., None] * errors

    def own_difference(self, ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the standard errors of means[ones] - means[others] by the two combinations' own variances.

        Also returns their degrees of freedom (Satterthwaite 1946). The error is infinite if a variance is unknown.
        """
        plan, least = self.layout, self.least[..., None]
        parts = [self.variances[..., at] / self.counts[at] for at in (ones, others)]
        inside = np.einsum("...k,kij->...ij", np.nan_to_num(self.variances), plan.parts)
        squares = parts[0] + parts[1] + self._between(ones, others, plan.inverse @ inside @ plan.inverse)
        # The estimate may be negative by rounding or chance: the pooled error is then the larger one.
        error = np.sqrt(np.where(np.isnan(squares), np.inf, np.maximum(squares, least)))
        first, second = (np.maximum(part, 0) for part in parts)
        noise = plan.noise[ones, ones] * first**2 + plan.noise[others, others] * second**2
        noise += 2 * plan.noise[ones, others] * first * second
        df = (first + second) ** 2 / np.maximum(noise, least**2)
        least_df, most_df = (join(self.counts[ones] - 1, self.counts[others] - 1) for join in (np.minimum, np.add))
        return error, np.clip(np.nan_to_num(df), np.maximum(least_df, 1), np.maximum(most_df, 1))

    def _between(self, ones: np.ndarray, others: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Return the part of a difference's variance due to the estimated seed effects: zero in complete blocks."""
        if self.layout.balanced or not self.layout.blocked:
            return np.zeros(len(ones))
        share = self.layout.share[ones] - self.layout.share[others]
        return ((share @ covariance) * share).sum(-1)


def fit(cells: Sequence[Mapping[str, float]]) -> Fit:
    """Fit the model to `cells`, a nonempty mapping seed -> value for each combination; seeds may be missing."""
    values = table(cells)
    return solve(layout(~np.isnan(values)), values)


def table(cells: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return an array of the values [k, b], NaN where a combination did not run a seed."""
    seeds = list(dict.fromkeys(seed for cell in cells for seed in cell))
    return np.array([[cell.get(seed, np.nan) for seed in seeds] for cell in cells])


def layout(known: np.ndarray) -> BlockDesign:
    """Build the design of `known` [k, b], in which no row and no column is empty."""
    counts, seeds = known.sum(1), known.shape[1]
    share = known / counts[:, None]
    # Eliminating the combinations from the normal equations leaves a system of the size of the number of seeds.
    reduced = np.diag(known.sum(0).astype(float)) - known.T @ share
    linked = bool(np.linalg.matrix_rank(reduced, hermitian=True) == seeds - 1)
    inverse = np.linalg.pinv(reduced, hermitian=True) if linked else np.zeros_like(reduced)
    parts = np.eye(seeds) * known[:, None, :] - known[:, :, None] * share[:, None, :]
    return BlockDesign(
        known=known,
        counts=counts,
        df=int(known.sum()) - len(known) - (seeds - 1 if linked else 0),
        blocked=linked,
        share=share,
        inverse=inverse,
        parts=parts,
        **_variance_equations(counts, inverse @ parts),
    )


def solve(plan: BlockDesign, values: np.ndarray) -> Fit:
    """Fit the model to `values` [..., k, b]; values that `plan.known` excludes are ignored."""
    known = plan.known
    filled = np.where(known, values, 0.0)
    plain = filled.sum(-1) / plan.counts
    effects = (filled.sum(-2) - plain @ known) @ plan.inverse
    own = plain - effects @ plan.share.T
    residual = np.where(known, values - own[..., None] - effects[..., None, :], 0.0)
    own_squares = (residual**2).sum(-1)
    squares = own_squares.sum(-1)
    deviation = None
    if plan.df > 0:
        is_zero = squares <= _ZERO * (filled**2).sum((-2, -1))
        deviation = np.where(is_zero, 0.0, np.sqrt(squares / plan.df))
        deviation = float(deviation) if deviation.ndim == 0 else deviation
    variances = np.where(plan.determined, own_squares @ plan.noise, np.nan)
    return Fit(plan, own + effects.mean(-1, keepdims=True), deviation, variances)


def _variance_equations(counts: np.ndarray, taken: np.ndarray) -> dict[str, np.ndarray]:
    """Return `determined` and `noise` of a layout; `noise` also maps squared residuals [k] to variances.

    taken [k, b, b]: the share of a combination's information that the seed effects use, `inverse @ part`. The
    expected squares of combination i are the sum over j of M[i, j] times variance j. M[i, j] is the sum of the
    squared elements of block (i, j) of the residual-forming matrix, and `noise` is the inverse of M.
    """
    flat, crossed = (array.reshape(len(taken), -1) for array in (taken, taken.transpose(0, 2, 1)))
    own = counts - 1 - 2 * np.trace(taken, axis1=1, axis2=2)
    determined = own + (flat * crossed).sum(1) > 1e-9
    if len(counts) > _MOST_JOINT:
        noise = np.diag(1 / np.maximum(own + flat @ crossed.sum(0), 1e-9))
    else:
        noise = np.linalg.pinv(np.diag(own) + flat @ crossed.T, rcond=1e-10, hermitian=True)
    return {"determined": determined, "noise": noise}
