"""Which combinations the seeds tell apart, corrected for having picked the best after the fact.

Few combinations: Tukey's honestly significant difference for all pairs (Tukey-Kramer where seeds are missing).
Many: Hsu's multiple comparisons with the best, each against the leader (Hsu 1984, Ann. Statist. 12; the
quantile is one-sided Dunnett's with equal correlations 1/2, which is exact where no run is missing).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from scipy.interpolate import PchipInterpolator

from runner.report.blocked import Fit
from runner.report.wording import MOST_SEEDS

ALPHA = 0.05
POWER = 0.8
ALL_PAIRS = 8  # combinations, up to which every pair is compared


@dataclass(frozen=True)
class Pair:
    """A difference of two least-squares means; `low` and `high` hold for all pairs of the page at once (95 %).

    `more`: about how many further seeds would tell them apart, if the difference seen is the true one; 0 where
    they are told apart, infinity where not even `MOST_SEEDS` would.
    """

    one: int
    other: int
    difference: float
    low: float
    high: float
    p: float
    more: float

    @property
    def told(self) -> bool:
        return self.more == 0


@dataclass(frozen=True)
class Comparison:
    """`pairs` are all pairs (Tukey), or the leader against each (Hsu)."""

    method: str
    leader: int
    pairs: list[Pair]

    def against(self, other: int) -> Pair:
        """The leader against another."""
        return next(pair for pair in self.pairs if {pair.one, pair.other} == {self.leader, other})

    @property
    def rivals(self) -> list[Pair]:
        """The leader against those that it is not told apart from, the nearest first."""
        near = [pair for pair in self.pairs if pair.one == self.leader and not pair.told]
        return sorted(near, key=lambda pair: pair.difference)


def compare(fit: Fit) -> Comparison | None:
    """None where there is nothing to judge by: one combination, no degrees of freedom, or a residual of zero."""
    k = len(fit.means)
    if k < 2 or not fit.deviation:
        return None
    order = np.argsort(-fit.means, kind="stable")
    method = TUKEY if k <= ALL_PAIRS else HSU
    critical = method.quantile(k, fit.df)
    pairs = []
    for place in range(k - 1 if method is TUKEY else 1):
        one, others = order[place], order[place + 1 :]
        difference, error = fit.means[one] - fit.means[others], fit.difference(one, others)
        p, margin = method.p(difference / error, k, fit.df), critical * error
        high = difference + margin if method is TUKEY else np.full(len(others), np.inf)
        more = np.where(difference > margin, 0, further(difference, fit, method))
        columns = zip(others, difference, difference - margin, high, p, more)
        pairs += [Pair(int(one), int(other), *map(float, numbers)) for other, *numbers in columns]
    return Comparison(method.name, int(order[0]), pairs)


def further(differences: np.ndarray, fit: Fit, method: "Method") -> np.ndarray:
    """About how many more seeds tell `differences` [m] apart in 80 of 100 repetitions, if they are the true ones.

    The power of a comparison of two means over n seeds each is that of the noncentral t distribution at the
    corrected critical value, with the pooled residual of the runs that there are.
    """
    k = len(fit.means)
    counts = np.unique(np.geomspace(fit.seeds + 1, fit.seeds + MOST_SEEDS, 150).round())
    df = (counts - 1) * (k - 1 if fit.blocked else k)
    at = np.unique(np.r_[0, np.geomspace(1, len(counts) - 1, 7).astype(int)])  # a quantile takes a tenth of a second
    known = np.log([method.quantile(k, df[i]) for i in at])
    critical = np.exp(PchipInterpolator(1 / df[at][::-1], known[::-1])(1 / df))
    shift = np.abs(differences)[:, None] / (fit.deviation * np.sqrt(2 / counts))
    enough = stats.nct.sf(critical, df, np.minimum(shift, 40)) >= POWER  # 40: as good as certain, and still computed
    return np.where(enough.any(1), counts[enough.argmax(1)] - fit.seeds, np.inf)


@dataclass(frozen=True)
class Method:
    """A correction for many comparisons: p values and the two-sided or one-sided quantile of |t| at `ALPHA`."""

    name: str
    p: Callable[[np.ndarray, int, float], np.ndarray]
    quantile: Callable[[int, float], float]


def _tukey_p(t: np.ndarray, k: int, df: float) -> np.ndarray:
    return stats.studentized_range.sf(np.abs(t) * np.sqrt(2), k, df)


@functools.cache
def _tukey_quantile(k: int, df: float) -> float:
    """Between that of a single comparison and Bonferroni's of all: SciPy's own search looks twice as often at an
    integral that takes 5 ms."""
    low, high = stats.t.isf([ALPHA / 2, ALPHA / (k * (k - 1))], df) * (0.999, 1.001)  # k = 2: they are the same
    return optimize.brentq(lambda t: float(_tukey_p(t, k, df)) - ALPHA, low, high, xtol=1e-7)


def _hsu_p(t: np.ndarray, k: int, df: float) -> np.ndarray:
    """P(max of k - 1 differences to a common mean > t), each over its error: correlations 1/2 [len(t)]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)  # the common mean
    places, mass = np.polynomial.legendre.leggauss(64)  # the residual's deviation, by its quantiles
    scale = np.sqrt(stats.chi2.ppf((places + 1) / 2, df) / df)
    each = stats.norm.cdf(nodes[:, None] + np.sqrt(2) * np.multiply.outer(t, scale)[:, None, :]) ** (k - 1)
    within = np.einsum("z,tzs,s->t", weights / weights.sum(), each, mass / 2)
    return np.clip(1 - within, 0, 1)


@functools.cache
def _hsu_quantile(k: int, df: float) -> float:
    return optimize.brentq(lambda t: _hsu_p(np.array([t]), k, df)[0] - ALPHA, 0.01, 1e4)


TUKEY = Method("Tukey's honestly significant difference", _tukey_p, _tukey_quantile)
HSU = Method("Hsu's multiple comparisons with the best", _hsu_p, _hsu_quantile)
