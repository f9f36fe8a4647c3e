"""Differences by seed, with the residual of all combinations pooled."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runner.report.best import ALPHA, POWER
from runner.report.effects import holm
from runner.report.wording import MOST_SEEDS

_ZERO = 1e-12  # of an accuracy: rounding


@dataclass(frozen=True)
class Difference:
    """Second minus first over `seeds` shared seeds.

    `p` is corrected for the number of comparisons (Holm), None without a residual or with one seed;
    `half` is half the 95 % interval of this difference alone; `more` seeds would tell about (0: they tell now).
    """

    seeds: int
    mean: float
    half: float | None
    p: float | None
    more: float | None

    @property
    def told(self) -> bool:
        return self.p is not None and self.p < ALPHA


def paired(pairs: Sequence[Mapping[str, float]]) -> tuple[list[Difference], float | None, int]:
    """`pairs`: for each combination, seed -> second minus first. Also the pooled residual, and its degrees of freedom.

    The model is difference ~ combination: what a seed adds to both partners has dropped out already.
    """
    values = [np.array(list(pair.values())) for pair in pairs]
    counts = np.array([len(value) for value in values])
    means = np.array([value.mean() for value in values])
    df = int((counts - 1).sum())
    squares = sum(float(((value - mean) ** 2).sum()) for value, mean in zip(values, means))
    deviation = None if df < 1 else math.sqrt(squares / df)
    if deviation is not None and deviation <= _ZERO:
        deviation = 0.0
    if not deviation:
        return [Difference(int(n), float(mean), None, None, None) for n, mean in zip(counts, means)], deviation, df
    error = deviation / np.sqrt(counts)
    half = stats.t.isf(ALPHA / 2, df) * error
    judged = counts > 1  # one seed: no verdict
    p = np.full(len(values), np.nan)
    p[judged] = holm(2 * stats.t.sf(np.abs(means) / error, df)[judged])
    found = []
    for n, mean, margin, q in zip(counts.tolist(), means.tolist(), half.tolist(), p.tolist()):
        more = 0.0 if n < 2 or q < ALPHA else further(mean, n, deviation, int(judged.sum()))
        found.append(Difference(n, mean, margin, q, more) if n > 1 else Difference(n, mean, None, None, None))
    return found, deviation, df


def further(mean: float, seeds: int, deviation: float, comparisons: int) -> float:
    """About how many more seeds show `mean` in 80 of 100 repetitions, if it is the true difference (Bonferroni)."""
    counts = np.unique(np.geomspace(seeds + 1, seeds + MOST_SEEDS, 150).round())
    df = comparisons * (counts - 1)
    critical = stats.t.isf(ALPHA / 2 / comparisons, df)
    shift = np.minimum(abs(mean) * np.sqrt(counts) / deviation, 40)
    enough = stats.nct.sf(critical, df, shift) >= POWER
    return float(counts[enough.argmax()] - seeds) if enough.any() else math.inf


def overall(pairs: Sequence[Mapping[str, float]]) -> Difference | None:
    """The mean over all combinations, seed by seed: its error is the spread of the seeds. None without shared seeds."""
    seeds = [seed for seed in pairs[0] if all(seed in pair for pair in pairs)]
    if not seeds:
        return None
    values = np.array([np.mean([pair[seed] for pair in pairs]) for seed in seeds])
    mean, n = float(values.mean()), len(seeds)
    deviation = float(values.std(ddof=1)) if n > 1 else 0.0
    if deviation <= _ZERO:
        return Difference(n, mean, None, None, None)
    error = deviation / math.sqrt(n)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    more = 0.0 if p < ALPHA else further(mean, n, deviation, 1)
    return Difference(n, mean, float(stats.t.isf(ALPHA / 2, n - 1)) * error, p, more)
