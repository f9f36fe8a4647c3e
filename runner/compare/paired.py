"""Differences by seed, tested with the residual of all combinations pooled and with each combination's own.

A combination differs only where both say so: pooled alone, the few that spread widely are called different too often,
and alone, a combination whose seeds happen to agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runner.report.results.format import MOST_SEEDS
from runner.report.results.tables import FEWEST
from runner.report.statistics.block_design import table
from runner.report.statistics.multiple_comparisons import ALPHA, POWER
from runner.report.statistics.unequal_spread import holm

_ZERO = 1e-12  # of an accuracy: rounding


@dataclass(frozen=True)
class Difference:
    """Second minus first over `seeds` shared seeds.

    `p` is the larger of the two tests', each corrected for the number of comparisons (Holm); None without a residual
    or with fewer than `FEWEST` seeds. `low` and `high` are the wider 95 % interval of this difference alone, cut to
    [-1, 1]. `more` seeds would tell about (0: they tell now).
    """

    seeds: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    more: float | None = None

    @property
    def is_significant(self) -> bool:
        return self.p is not None and self.p < ALPHA


@dataclass(frozen=True)
class Judgment:
    """Of k combinations: mean differences [..., k] over `counts` [k] seeds, and their p values, corrected by Holm.

    `own` [..., k] are the combinations' standard deviations, `deviation` [...] the pooled one: None without degrees of
    freedom, 0.0 where there is no spread. `p` is NaN with fewer than `FEWEST` seeds, and where there is no spread.
    """

    counts: np.ndarray
    means: np.ndarray
    own: np.ndarray
    deviation: float | np.ndarray | None
    df: int
    p: np.ndarray


def judge(values: np.ndarray) -> Judgment:
    """Test the differences by seed `values` [..., k, b], NaN where a combination has no such seed.

    The model is difference ~ combination: what a seed adds to both partners has dropped out already. p is the larger
    one of two t tests', by the residual pooled over the combinations and by the combination's own.
    """
    known = ~np.isnan(values[(0,) * (values.ndim - 2)])
    counts, filled = known.sum(-1), np.where(known, values, 0.0)
    means = filled.sum(-1) / counts
    squares = np.where(known, (filled - means[..., None]) ** 2, 0.0).sum(-1)
    own = np.sqrt(np.maximum(squares / np.maximum(counts - 1, 1), _ZERO**2))
    df, judged, p = int((counts - 1).sum()), counts >= FEWEST, np.full(means.shape, np.nan)
    if df < 1:
        return Judgment(counts, means, own, None, df, p)
    deviation = np.sqrt(squares.sum(-1) / df)
    deviation = np.where(deviation <= _ZERO, 0.0, deviation)
    if judged.any() and deviation.all():
        size = np.abs(means) * np.sqrt(counts)
        by_pooled = holm(2 * stats.t.sf((size / deviation[..., None])[..., judged], df))
        by_own = holm(2 * stats.t.sf((size / own)[..., judged], counts[judged] - 1))
        p[..., judged] = np.maximum(by_pooled, by_own)
    return Judgment(counts, means, own, float(deviation) if deviation.ndim == 0 else deviation, df, p)


def paired(pairs: Sequence[Mapping[str, float]]) -> tuple[list[Difference], float | None, int]:
    """Return the differences of `judge`, the pooled residual, and its degrees of freedom."""
    known = judge(table(pairs))
    differences = [Difference(int(n), float(mean)) for n, mean in zip(known.counts, known.means)]
    at = np.flatnonzero(~np.isnan(known.p))
    if not len(at):
        return differences, known.deviation, known.df
    n, mean, own, p = (of[at] for of in (known.counts, known.means, known.own, known.p))
    spreads = (known.df, known.deviation), (n - 1, own)
    margin = np.maximum(*(stats.t.isf(ALPHA / 2, df) * spread / np.sqrt(n) for df, spread in spreads))
    low, high = np.clip(mean - margin, -1, 1), np.clip(mean + margin, -1, 1)
    more = np.where(p < ALPHA, 0.0, further(mean, n, known.deviation, len(at), own))
    for place, seeds, *numbers in zip(at, n, mean, low, high, p, more):
        differences[place] = Difference(int(seeds), *map(float, numbers))
    return differences, known.deviation, known.df


def further(
    means: np.ndarray, seeds: np.ndarray, deviation: float, comparisons: int, own: np.ndarray | None = None
) -> np.ndarray:
    """Return about how many more seeds show `means` in 80 of 100 repetitions, if they are the true differences.

    own: standard deviations of the combinations alone, where both tests are needed. They have the power together where
    the chances that either misses add up to no more than a fifth. The correction is Bonferroni's.
    """
    means, seeds = (np.asarray(of, dtype=float)[..., None] for of in (means, seeds))
    counts = seeds + np.unique(np.geomspace(1, MOST_SEEDS, 60).round())
    missed = 0.0
    known = [(deviation, comparisons * (counts - 1))]
    for spread, df in known if own is None else (*known, (np.asarray(own)[..., None], counts - 1)):
        shift = np.minimum(np.abs(means) * np.sqrt(counts) / spread, 40)  # as good as certain, and still computed
        missed = missed + stats.nct.cdf(stats.t.isf(ALPHA / 2 / comparisons, df), df, shift)
    enough = missed <= 1 - POWER
    first = np.take_along_axis(counts, enough.argmax(-1)[..., None], -1) - seeds
    return np.where(enough.any(-1), first[..., 0], np.inf)


def overall(pairs: Sequence[Mapping[str, float]]) -> Difference | None:
    """Return the mean over all combinations, tested over the seeds that all of them have; None without such seeds.

    p is the larger one of two t tests', by the spread of the seeds' means and by the residual within the combinations:
    few seeds' means may agree by chance. It is None with fewer than `FEWEST` seeds, or where all means agree.
    """
    seeds = [seed for seed in pairs[0] if all(seed in pair for pair in pairs)]
    if not seeds:
        return None
    values = np.array([[pair[seed] for seed in seeds] for pair in pairs])
    (k, n), mean = values.shape, float(values.mean())
    deviation = float(values.mean(0).std(ddof=1)) if n > 1 else 0.0  # of the seeds' means
    if n < FEWEST or deviation <= _ZERO:
        return Difference(n, mean)
    within = float(np.sqrt(values.var(1, ddof=1).mean() / k))  # the same, were there nothing in common to a seed's runs
    spreads = (n - 1, deviation), (k * (n - 1), within)
    p = max(float(2 * stats.t.sf(abs(mean) * math.sqrt(n) / spread, df)) for df, spread in spreads)
    half = max(float(stats.t.isf(ALPHA / 2, df)) * spread / math.sqrt(n) for df, spread in spreads)
    more = 0.0 if p < ALPHA else float(further(mean, n, max(deviation, within), 1))
    return Difference(n, mean, max(-1.0, mean - half), min(1.0, mean + half), p, more)
