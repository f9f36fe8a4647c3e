"""Differences by seed, tested with the residual of all combinations pooled and with each combination's own.

A combination differs only where both say so: pooled alone, the few that spread widely are called different too often,
and alone, a combination whose seeds happen to agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runner.report.best import ALPHA, FEWEST, POWER
from runner.report.effects import holm
from runner.report.wording import MOST_SEEDS

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
    def told(self) -> bool:
        return self.p is not None and self.p < ALPHA


@dataclass(frozen=True)
class Tests:
    """Of several combinations, arrays of one length: mean differences over `counts` seeds, and their p values.

    `own` are the combinations' standard deviations, `deviation` the pooled one: None without degrees of freedom, 0.0
    where there is no spread; `judged` are the places with `FEWEST` seeds, all others and all p without a residual NaN.
    """

    counts: np.ndarray
    means: np.ndarray
    own: np.ndarray
    deviation: float | None
    df: int
    judged: np.ndarray
    p: np.ndarray


def tests(pairs: Sequence[Mapping[str, float]]) -> Tests:
    """Test each combination, given as seed -> second minus first: by the larger one of two t tests' p values.

    The model is difference ~ combination: what a seed adds to both partners has dropped out already. One test is by the
    residual pooled over the combinations, one by the combination's own; each is corrected by Holm's method.
    """
    values = [np.array(list(pair.values())) for pair in pairs]
    counts = np.array([len(value) for value in values])
    means = np.array([value.mean() for value in values])
    squares = np.array([((value - mean) ** 2).sum() for value, mean in zip(values, means)])
    own = np.sqrt(np.maximum(squares / np.maximum(counts - 1, 1), _ZERO**2))
    df = int((counts - 1).sum())
    deviation = None if df < 1 else math.sqrt(squares.sum() / df)
    if deviation is not None and deviation <= _ZERO:
        deviation = 0.0
    judged, p = np.flatnonzero(counts >= FEWEST), np.full(len(pairs), np.nan)
    if deviation and len(judged):
        size = np.abs(means[judged]) * np.sqrt(counts[judged])
        by_pooled = holm(2 * stats.t.sf(size / deviation, df))
        p[judged] = np.maximum(by_pooled, holm(2 * stats.t.sf(size / own[judged], counts[judged] - 1)))
    return Tests(counts, means, own, deviation, df, judged, p)


def paired(pairs: Sequence[Mapping[str, float]]) -> tuple[list[Difference], float | None, int]:
    """Return the differences of `tests`, the pooled residual, and its degrees of freedom."""
    known = tests(pairs)
    differences = [Difference(int(n), float(mean)) for n, mean in zip(known.counts, known.means)]
    if not known.deviation or not len(known.judged):
        return differences, known.deviation, known.df
    at = known.judged
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
    """The mean over all combinations, seed by seed: its error is the spread of the seeds. None without shared seeds.

    That holds whatever the combinations' spread; `p` is None with fewer than `FEWEST` seeds.
    """
    seeds = [seed for seed in pairs[0] if all(seed in pair for pair in pairs)]
    if not seeds:
        return None
    values = np.array([np.mean([pair[seed] for pair in pairs]) for seed in seeds])
    mean, n = float(values.mean()), len(seeds)
    deviation = float(values.std(ddof=1)) if n > 1 else 0.0
    if n < FEWEST or deviation <= _ZERO:
        return Difference(n, mean)
    error = deviation / math.sqrt(n)
    p, half = float(2 * stats.t.sf(abs(mean) / error, n - 1)), float(stats.t.isf(ALPHA / 2, n - 1)) * error
    more = 0.0 if p < ALPHA else float(further(mean, n, deviation, 1))
    return Difference(n, mean, max(-1.0, mean - half), min(1.0, mean + half), p, more)
