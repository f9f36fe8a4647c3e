"""Which combinations the seeds tell apart, corrected for having picked the best after the fact.

All pairs by the studentized range, whatever the number of combinations. A pair differs only where two tests say so:
Tukey's with one residual pooled over all (Tukey-Kramer where seeds are missing), and that of Games and Howell (1976)
with each combination's own variance. Pooled errors alone call too many pairs different where combinations spread
unequally, own variances alone where seeds are few. docs/report.md has the rates of false alarms and the power.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runner.report.results.format import MOST_SEEDS
from runner.report.statistics.block_design import Fit
from runner.report.statistics.studentized import quantile, tail

ALPHA = 0.05
POWER = 0.8
ALL_PAIRS = 8  # combinations, up to which every pair is listed; of more, the leader against each
METHOD = "Tukey's comparison of all pairs, with the pooled residual and with each combination's own (Games and Howell)"


@dataclass(frozen=True)
class Pair:
    """A difference of two least-squares means; `low` and `high` hold for all pairs of the page at once (95 %).

    They are the wider of the two tests' intervals, and `p` is the larger of their p values. `more`: about how many
    further seeds would tell them apart, if the difference seen is the true one; 0 where they are told apart, infinity
    where not even `MOST_SEEDS` would.
    """

    one: int
    other: int
    difference: float
    low: float
    high: float
    p: float
    more: float

    @property
    def is_significant(self) -> bool:
        return self.more == 0


@dataclass(frozen=True)
class Comparison:
    """`pairs` are all pairs, or of many combinations the leader against each."""

    leader: int
    pairs: list[Pair]

    def against(self, other: int) -> Pair:
        """The leader against another."""
        return next(pair for pair in self.pairs if (pair.one, pair.other) == (self.leader, other))

    @property
    def rivals(self) -> list[Pair]:
        """The leader against those that it is not told apart from, the nearest first."""
        near = [pair for pair in self.pairs if pair.one == self.leader and not pair.is_significant]
        return sorted(near, key=lambda pair: pair.difference)


@dataclass(frozen=True)
class Differences:
    """The pairs means[ones] - means[others] under both tests; arrays [..., pairs].

    `pooled` and `own` are standard errors, `df` belongs to `own`. An interval is `difference` ± `margin`.
    """

    difference: np.ndarray
    pooled: np.ndarray
    own: np.ndarray
    df: np.ndarray
    margin: np.ndarray

    @property
    def is_significant(self) -> np.ndarray:
        return np.abs(self.difference) > self.margin


def compare(fit: Fit) -> Comparison | None:
    """Return the comparison of the combinations of `fit`, each with `FEWEST` seeds or more.

    None where there is nothing to judge by: one combination, no degrees of freedom, or a residual of zero.
    """
    k = len(fit.means)
    if k < 2 or not fit.deviation:
        return None
    order = np.argsort(-fit.means.round(12), kind="stable")  # of equal means the first in the table leads
    first, second = np.triu_indices(k, 1)
    if k > ALL_PAIRS:
        first, second = first[: k - 1], second[: k - 1]
    ones, others = order[first], order[second]
    pairs = differences(fit, ones, others)
    more = np.where(pairs.is_significant, 0, further(pairs, fit, ones, others))
    low, high = (np.clip(pairs.difference + side * pairs.margin, -1, 1) for side in (-1, 1))
    numbers = zip(ones, others, pairs.difference, low, high, probabilities(pairs, fit), more)
    return Comparison(int(order[0]), [Pair(int(one), int(other), *map(float, rest)) for one, other, *rest in numbers])


def differences(fit: Fit, ones: np.ndarray, others: np.ndarray) -> Differences:
    """Return the pairs means[ones] - means[others] with errors and margins, corrected for all pairs of `fit`."""
    pooled = fit.difference(ones, others)
    own, df = fit.own_difference(ones, others)
    k = fit.means.shape[-1]
    if k == 2 and not fit.layout.blocked:
        # For two samples of three Welch's test has 6 % false alarms in place of 5. With one degree of freedom less it
        # keeps its level at all spreads and sizes tried. For more pairs the pooled test beside it makes up for it.
        df = np.maximum(df - 1, fit.counts.min() - 1)
    critical = quantile(k, ALPHA)
    margin = np.maximum(critical(fit.layout.df) * pooled, critical(df) * own) / math.sqrt(2)
    return Differences(fit.means[..., ones] - fit.means[..., others], pooled, own, df, margin)


def probabilities(pairs: Differences, fit: Fit) -> np.ndarray:
    """Return the p value of each pair: the larger of the two tests'."""
    k, q = len(fit.means), np.abs(pairs.difference) * math.sqrt(2)
    return np.maximum(tail(q / pairs.pooled, k, fit.layout.df), tail(q / pairs.own, k, pairs.df))


def further(pairs: Differences, fit: Fit, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return about how many more seeds tell the pairs apart in 80 of 100 repetitions, if the differences are true.

    The power of a comparison of two means over n seeds each is that of the noncentral t distribution at the corrected
    critical value, with the residuals of the runs that there are. Both tests have it together where the chances that
    either misses add up to no more than a fifth.
    """
    k, root = len(fit.means), math.sqrt(2)
    most = fit.counts.max()
    counts = np.unique(np.geomspace(most + 1, most + MOST_SEEDS, 60).round())
    critical = quantile(k, ALPHA)
    now = 2 / (1 / fit.counts[ones] + 1 / fit.counts[others])  # seeds of each, as its error counts them
    grown = (counts - 1) / (now - 1)[:, None]
    missed = 0.0
    for error, df in (
        (pairs.pooled, np.broadcast_to((counts - 1) * (k - 1 if fit.layout.blocked else k), grown.shape)),
        (pairs.own, pairs.df[:, None] * grown),
    ):
        shift = np.abs(pairs.difference / error)[:, None] * np.sqrt(counts / now[:, None])
        shift = np.minimum(shift, 40)  # as good as certain, and still computed
        missed = missed + stats.nct.cdf(critical(df) / root, df, shift)
    enough = missed <= 1 - POWER
    return np.where(enough.any(1), counts[enough.argmax(1)] - most, np.inf)
