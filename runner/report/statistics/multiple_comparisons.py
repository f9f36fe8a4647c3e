"""Multiple comparisons of combinations, corrected for selecting the best one after the fact.

All pairs are tested by the studentized range, for any number of combinations. A pair differs only if two tests are
significant: Tukey's with a residual pooled over all (Tukey-Kramer if seeds are missing), and that of Games and Howell
(1976) with each combination's own variance. Pooled errors alone have too many false alarms if variances are unequal,
own variances alone if there are few seeds. docs/report.md has the rates of false alarms and the power.
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
ALL_PAIRS = 8  # up to so many combinations every pair is listed; of more, only the leader against each
METHOD = "Tukey's comparison of all pairs, with the pooled residual and with each combination's own (Games and Howell)"


@dataclass(frozen=True)
class Pair:
    """Pair: a difference of two least-squares means; `low` and `high` hold for all pairs of the page at once (95 %).

    They are the wider of the two tests' intervals, and `p` is the larger of their p values. `more`: about how many
    more seeds would make it significant, if the observed difference is the true one. It is 0 if it is significant,
    infinity if more than `MOST_SEEDS` are needed.
    """

    first: int
    second: int
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
    """Comparison: `pairs` are all pairs, or of many combinations the leader against each."""

    leader: int
    pairs: list[Pair]

    def against(self, index: int) -> Pair:
        """Return the pair of the leader and combination `index`."""
        return next(pair for pair in self.pairs if (pair.first, pair.second) == (self.leader, index))

    @property
    def rivals(self) -> list[Pair]:
        """Return the leader's pairs that are not significant, the smallest difference first."""
        near = [pair for pair in self.pairs if pair.first == self.leader and not pair.is_significant]
        return sorted(near, key=lambda pair: pair.difference)


@dataclass(frozen=True)
class Differences:
    """Differences means[ones] - means[others] of pairs, with the errors of both tests; arrays [..., pairs].

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
    """Compare the combinations of `fit`, each with at least `FEWEST` seeds.

    Returns None if no test is possible: one combination, no degrees of freedom, or a residual of zero.
    """
    k = len(fit.means)
    if k < 2 or not fit.deviation:
        return None
    order = np.argsort(-fit.means.round(12), kind="stable")  # of equal means, the first in the table leads
    first, second = np.triu_indices(k, 1)
    if k > ALL_PAIRS:
        first, second = first[: k - 1], second[: k - 1]
    ones, others = order[first], order[second]
    pairs = differences(fit, ones, others)
    more = np.where(pairs.is_significant, 0, further(pairs, fit, ones, others))
    low, high = (np.clip(pairs.difference + side * pairs.margin, -1, 1) for side in (-1, 1))
    numbers = zip(ones, others, pairs.difference, low, high, probabilities(pairs, fit), more)
    return Comparison(int(order[0]), [Pair(int(i), int(j), *map(float, rest)) for i, j, *rest in numbers])


def differences(fit: Fit, ones: np.ndarray, others: np.ndarray) -> Differences:
    """Return means[ones] - means[others] with errors and margins, corrected for all pairs of `fit`."""
    pooled = fit.difference(ones, others)
    own, df = fit.own_difference(ones, others)
    k = fit.means.shape[-1]
    if k == 2 and not fit.layout.blocked:
        # For two samples of three, Welch's test has 6 % false alarms instead of 5. With one degree of freedom less it
        # keeps its level at all spreads and sizes tried. For more pairs the pooled test compensates for it.
        df = np.maximum(df - 1, fit.counts.min() - 1)
    critical = quantile(k, ALPHA)
    margin = np.maximum(critical(fit.layout.df) * pooled, critical(df) * own) / math.sqrt(2)
    return Differences(fit.means[..., ones] - fit.means[..., others], pooled, own, df, margin)


def probabilities(pairs: Differences, fit: Fit) -> np.ndarray:
    """Return the p value of each pair: the larger one of the two tests."""
    k, q = len(fit.means), np.abs(pairs.difference) * math.sqrt(2)
    return np.maximum(tail(q / pairs.pooled, k, fit.layout.df), tail(q / pairs.own, k, pairs.df))


def further(pairs: Differences, fit: Fit, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Estimate how many more seeds give a power of 80 % for each pair, if the observed differences are true.

    The power of a comparison of two means over n seeds each is that of the noncentral t distribution at the corrected
    critical value, with the present residuals. The probabilities that the two tests miss the difference may add up to
    20 %.
    """
    k, root = len(fit.means), math.sqrt(2)
    most = fit.counts.max()
    counts = np.unique(np.geomspace(most + 1, most + MOST_SEEDS, 60).round())
    critical = quantile(k, ALPHA)
    present = 2 / (1 / fit.counts[ones] + 1 / fit.counts[others])  # harmonic mean of the two numbers of seeds
    df_ratio = (counts - 1) / (present - 1)[:, None]
    missed = 0.0
    for error, df in (
        (pairs.pooled, np.broadcast_to((counts - 1) * (k - 1 if fit.layout.blocked else k), df_ratio.shape)),
        (pairs.own, pairs.df[:, None] * df_ratio),
    ):
        shift = np.abs(pairs.difference / error)[:, None] * np.sqrt(counts / present[:, None])
        shift = np.minimum(shift, 35)  # the power is 1 there; above, SciPy gives NaN for some degrees of freedom
        missed = missed + stats.nct.cdf(critical(df) / root, df, shift)
    enough = missed <= 1 - POWER
    return np.where(enough.any(1), counts[enough.argmax(1)] - most, np.inf)
