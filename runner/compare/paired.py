"""Paired t tests of differences by seed, with the pooled residual and with each combination's own spread.

A combination differs only if both tests are significant. The pooled test alone has too many false alarms for
combinations with a wide spread; the own test alone, for combinations with seeds that agree by chance.
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

_ZERO = 1e-12  # a spread of accuracies up to this is rounding error


@dataclass(frozen=True)
class Difference:
    """The mean difference, second minus first, over `seeds` shared seeds.

    `p` is the larger p value of the two tests, each corrected for the number of comparisons (Holm). It is None without
    a residual or with fewer than `FEWEST` seeds. `low` and `high` are the wider of the two 95 % intervals of this
    difference alone, cut to [-1, 1]. `more`: about how many more seeds would make it significant (0: it is).
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
    """The mean differences [..., k] of k combinations over `counts` [k] seeds, and their p values (Holm).

    `own` [..., k]: each combination's standard deviation. `deviation` [...]: the pooled one, None without degrees of
    freedom, 0.0 without any spread. `p` is NaN with fewer than `FEWEST` seeds, and without any spread.
    """

    counts: np.ndarray
    means: np.ndarray
    own: np.ndarray
    deviation: float | np.ndarray | None
    df: int
    p: np.ndarray


def judge(values: np.ndarray) -> Judgment:
    """Test the differences `values` [..., k combinations, b seeds], NaN where a combination lacks a seed.

    The model is difference ~ combination: an effect of the seed on both runs cancels in their difference. p is the
    larger one of two t tests: with the residual pooled over the combinations, and with the combination's own.
    """
    known = ~np.isnan(values[(0,) * (values.ndim - 2)])
    counts, filled = known.sum(-1), np.where(known, values, 0.0)
    means = filled.sum(-1) / counts
    squares = np.where(known, (filled - means[..., None]) ** 2, 0.0).sum(-1)
    own = np.sqrt(np.maximum(squares / np.maximum(counts - 1, 1), _ZERO**2))
    df, is_tested, p = int((counts - 1).sum()), counts >= FEWEST, np.full(means.shape, np.nan)
    if df < 1:
        return Judgment(counts, means, own, None, df, p)
    deviation = np.sqrt(squares.sum(-1) / df)
    deviation = np.where(deviation <= _ZERO, 0.0, deviation)
    if is_tested.any() and deviation.all():
        size = np.abs(means) * np.sqrt(counts)
        by_pooled = holm(2 * stats.t.sf((size / deviation[..., None])[..., is_tested], df))
        by_own = holm(2 * stats.t.sf((size / own)[..., is_tested], counts[is_tested] - 1))
        p[..., is_tested] = np.maximum(by_pooled, by_own)
    return Judgment(counts, means, own, float(deviation) if deviation.ndim == 0 else deviation, df, p)


def paired(pairs: Sequence[Mapping[str, float]]) -> tuple[list[Difference], float | None, int]:
    """Return a `Difference` for each combination, the pooled residual, and its degrees of freedom."""
    judgment = judge(table(pairs))
    differences = [Difference(int(n), float(mean)) for n, mean in zip(judgment.counts, judgment.means)]
    at = np.flatnonzero(~np.isnan(judgment.p))
    if not len(at):
        return differences, judgment.deviation, judgment.df
    n, mean, own, p = (values[at] for values in (judgment.counts, judgment.means, judgment.own, judgment.p))
    spreads = (judgment.df, judgment.deviation), (n - 1, own)
    margin = np.maximum(*(stats.t.isf(ALPHA / 2, df) * spread / np.sqrt(n) for df, spread in spreads))
    low, high = np.clip(mean - margin, -1, 1), np.clip(mean + margin, -1, 1)
    more = np.where(p < ALPHA, 0.0, further(mean, n, judgment.deviation, len(at), own))
    for place, seeds, *numbers in zip(at, n, mean, low, high, p, more):
        differences[place] = Difference(int(seeds), *map(float, numbers))
    return differences, judgment.deviation, judgment.df


def further(
    means: np.ndarray, seeds: np.ndarray, deviation: float, comparisons: int, own: np.ndarray | None = None
) -> np.ndarray:
    """Estimate how many more seeds detect `means` with a power of 80 %, if they are the true differences.

    own: standard deviations of the combinations alone, if both tests are needed. Then the probabilities that the two
    tests miss the difference may add up to 20 %. The correction for several comparisons is Bonferroni's.
    """
    means, seeds = (np.asarray(array, dtype=float)[..., None] for array in (means, seeds))
    counts = seeds + np.unique(np.geomspace(1, MOST_SEEDS, 60).round())
    missed = 0.0
    tests = [(deviation, comparisons * (counts - 1))]
    for spread, df in tests if own is None else (*tests, (np.asarray(own)[..., None], counts - 1)):
        # The power is 1 at 35; above, SciPy gives NaN for some degrees of freedom.
        shift = np.minimum(np.abs(means) * np.sqrt(counts) / spread, 35)
        missed = missed + stats.nct.cdf(stats.t.isf(ALPHA / 2 / comparisons, df), df, shift)
    enough = missed <= 1 - POWER
    first = np.take_along_axis(counts, enough.argmax(-1)[..., None], -1) - seeds
    return np.where(enough.any(-1), first[..., 0], np.inf)


def overall(pairs: Sequence[Mapping[str, float]]) -> Difference | None:
    """Test the mean difference over all combinations, with the seeds that all of them have; None without such seeds.

    p is the larger one of two t tests: with the spread of the seeds' means, and with the residual within the
    combinations, because the means of a few seeds may agree by chance. It is None with fewer than `FEWEST` seeds, or
    if all means agree.
    """
    seeds = [seed for seed in pairs[0] if all(seed in pair for pair in pairs)]
    if not seeds:
        return None
    values = np.array([[pair[seed] for seed in seeds] for pair in pairs])
    (k, n), mean = values.shape, float(values.mean())
    deviation = float(values.mean(0).std(ddof=1)) if n > 1 else 0.0  # of the seeds' means
    if n < FEWEST or deviation <= _ZERO:
        return Difference(n, mean)
    within = float(np.sqrt(values.var(1, ddof=1).mean() / k))  # the expected value, if runs of a seed are independent
    spreads = (n - 1, deviation), (k * (n - 1), within)
    p = max(float(2 * stats.t.sf(abs(mean) * math.sqrt(n) / spread, df)) for df, spread in spreads)
    half = max(float(stats.t.isf(ALPHA / 2, df)) * spread / math.sqrt(n) for df, spread in spreads)
    more = 0.0 if p < ALPHA else float(further(mean, n, max(deviation, within), 1))
    return Difference(n, mean, max(-1.0, mean - half), min(1.0, mean + half), p, more)
