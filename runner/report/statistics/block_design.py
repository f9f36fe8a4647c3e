"""The two-way model metric ~ combination + seed: least-squares means, pooled residual, errors of differences.

Seeds are blocks: what a seed does to all combinations alike (its split of luck) is taken out before they are
compared. See Montgomery, Design and Analysis of Experiments, chapter 4 (randomized and incomplete blocks).

Combinations may spread differently over the seeds. Their own variances are estimated from the squared residuals of the
same model, so that their expectations are met (MINQUE with equal prior weights, Rao 1970; with complete blocks the
estimates of Grubbs 1948, without blocks the sample variances).

Values may have leading dimensions, [..., k, b]: many draws of one layout, as in benchmarks/false_alarms.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ZERO = 1e-24  # of the sum of squares: what is left of a perfect fit in double precision
_MOST_JOINT = 1000  # combinations, above which each variance is estimated as if all others were equal to it


@dataclass(frozen=True)
class BlockDesign:
    """Which combination ran which seed, `known` [k, b], and all that follows from that alone.

    `blocked` is False where the seeds do not link all combinations: then it is the one-way model.
    """

    known: np.ndarray
    counts: np.ndarray  # seeds of each combination [k]
    df: int  # of the pooled residual
    blocked: bool
    share: np.ndarray  # [k, b]: the weight of each seed in a combination's mean
    inverse: np.ndarray  # [b, b]: covariance of the seeds' effects over the residual variance; zero without blocks
    parts: np.ndarray  # [k, b, b]: each combination's part of the seeds' normal equations
    determined: np.ndarray  # [k]: whether the residuals say something of a combination's own variance
    noise: np.ndarray  # [k, k]: covariance of the variances i and j, over 2 variances[i] variances[j]

    @property
    def balanced(self) -> bool:
        """Whether every combination ran every seed."""
        return bool(self.known.all())

    @property
    def rows(self) -> np.ndarray:
        """The combination of each value `values[known]`."""
        return np.nonzero(self.known)[0]

    @property
    def seeds(self) -> np.ndarray:
        """The seed of each value `values[known]`."""
        return np.nonzero(self.known)[1]


@dataclass(frozen=True)
class Fit:
    """`means` [..., k]: least-squares means, averaged over all seeds as if every combination had run each of them.

    `deviation` [...] is the standard deviation of the pooled residual: None without degrees of freedom, 0.0 where the
    model explains every digit. `variances` [..., k]: each combination's own residual variance, which may come out below
    zero; NaN where its residuals say nothing of it.
    """

    layout: BlockDesign
    means: np.ndarray
    deviation: float | np.ndarray | None
    variances: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Seeds of each combination [k]."""
        return self.layout.counts

    @property
    def least(self) -> np.ndarray:
        """A variance that counts as none [...]."""
        return 1e-12 * np.square(self.deviation or 0.0 if np.ndim(self.deviation) == 0 else self.deviation)

    def difference(self, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return the standard errors of means[ones] - means[others] by the pooled residual."""
        between = self._between(ones, others, self.layout.inverse)
        errors = np.sqrt(1 / self.counts[ones] + 1 / self.counts[others] + between)
        return np.asarray(self.deviation)[..., None] * errors

    def own_difference(self, ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the standard errors of means[ones] - means[others] by the variances of the two combinations, and
        their degrees of freedom (Satterthwaite 1946).

        The error is infinite where a variance is not known.
        """
        plan, least = self.layout, self.least[..., None]
        parts = [self.variances[..., at] / self.counts[at] for at in (ones, others)]
        inside = np.einsum("...k,kij->...ij", np.nan_to_num(self.variances), plan.parts)
        squares = parts[0] + parts[1] + self._between(ones, others, plan.inverse @ inside @ plan.inverse)
        # Rounding and chance may take the estimate below zero: the pooled error then decides.
        error = np.sqrt(np.where(np.isnan(squares), np.inf, np.maximum(squares, least)))
        one, other = (np.maximum(part, 0) for part in parts)
        noise = plan.noise[ones, ones] * one**2 + plan.noise[others, others] * other**2
        noise += 2 * plan.noise[ones, others] * one * other
        df = (one + other) ** 2 / np.maximum(noise, least**2)
        fewest, all_of_both = (of(self.counts[ones] - 1, self.counts[others] - 1) for of in (np.minimum, np.add))
        return error, np.clip(np.nan_to_num(df), np.maximum(fewest, 1), np.maximum(all_of_both, 1))

    def _between(self, ones: np.ndarray, others: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        """Return the part of a difference's variance that comes from the seeds' effects: none in complete blocks."""
        if self.layout.balanced or not self.layout.blocked:
            return np.zeros(len(ones))
        share = self.layout.share[ones] - self.layout.share[others]
        return ((share @ covariance) * share).sum(-1)


def fit(cells: Sequence[Mapping[str, float]]) -> Fit:
    """`cells`: one mapping seed -> value a combination, none of them empty; any of the seeds may be missing."""
    values = table(cells)
    return solve(layout(~np.isnan(values)), values)


def table(cells: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the values [k, b], NaN where a combination did not run a seed."""
    seeds = list(dict.fromkeys(seed for cell in cells for seed in cell))
    return np.array([[cell.get(seed, np.nan) for seed in seeds] for cell in cells])


def layout(known: np.ndarray) -> BlockDesign:
    """Return what follows from `known` [k, b], in which no row and no column is empty."""
    counts, seeds = known.sum(1), known.shape[1]
    share = known / counts[:, None]
    # The combinations are eliminated from the normal equations: what is left is as large as the number of seeds.
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
    """Return the fit of `values` [..., k, b]; what is not known of them is not looked at."""
    known = plan.known
    filled = np.where(known, values, 0.0)
    plain = filled.sum(-1) / plan.counts
    effects = (filled.sum(-2) - plain @ known) @ plan.inverse
    own = plain - effects @ plan.share.T
    residual = np.where(known, values - own[..., None] - effects[..., None, :], 0.0)
    each = (residual**2).sum(-1)
    squares = each.sum(-1)
    deviation = None
    if plan.df > 0:
        none = squares <= _ZERO * (filled**2).sum((-2, -1))
        deviation = np.where(none, 0.0, np.sqrt(squares / plan.df))
        deviation = float(deviation) if deviation.ndim == 0 else deviation
    variances = np.where(plan.determined, each @ plan.noise, np.nan)
    return Fit(plan, own + effects.mean(-1, keepdims=True), deviation, variances)


def _variance_equations(counts: np.ndarray, taken: np.ndarray) -> dict[str, np.ndarray]:
    """Return `determined` and `noise` of a layout; `noise` turns squared residuals [k] into variances as well.

    taken [k, b, b]: the share of a combination's information that the seeds' effects took, `inverse @ part`. The
    expected squares of combination i are the sum over j of M[i, j] times variance j, where M[i, j] is the sum of the
    squared elements of block (i, j) of the residual-forming matrix. `noise` is the inverse of M.
    """
    flat, crossed = (of.reshape(len(taken), -1) for of in (taken, taken.transpose(0, 2, 1)))
    own = counts - 1 - 2 * np.trace(taken, axis1=1, axis2=2)
    determined = own + (flat * crossed).sum(1) > 1e-9
    if len(counts) > _MOST_JOINT:
        noise = np.diag(1 / np.maximum(own + flat @ crossed.sum(0), 1e-9))
    else:
        noise = np.linalg.pinv(np.diag(own) + flat @ crossed.T, rcond=1e-10, hermitian=True)
    return {"determined": determined, "noise": noise}
