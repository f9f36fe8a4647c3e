"""Numbers as the page writes them."""

import math

from runner.core.text import number
from runner.report.results.tables import Statistic

MOST_SEEDS = 1000  # further ones: a difference that asks for more is not worth a number


def spread(statistic: Statistic | None, metric: str) -> str:
    """`0.9123 ± 0.0021`; one value stands alone."""
    if statistic is None:
        return "–"
    mean = number(statistic.mean, metric)
    if statistic.deviation is None or metric == "epochs":
        return mean
    return f"{mean} ± {number(statistic.deviation, metric)}"


def band(mean: float, deviation: float, metric: str) -> tuple[float, float]:
    """Return mean - deviation and mean + deviation; of an accuracy, cut to [0, 1]."""
    low, high = mean - deviation, mean + deviation
    return (max(0.0, low), min(1.0, high)) if "accuracy" in metric else (low, high)


def probability(p: float) -> str:
    """`p = 0.031`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def further(more: float) -> str:
    """How many more seeds would tell: `about 4 more seeds`; two digits, for it is a guess."""
    if math.isinf(more):
        return f"more than {MOST_SEEDS:,} more seeds"
    digits = max(0, len(str(int(more))) - 2)
    rounded = int(round(more, -digits))
    return f"about {count(rounded, 'more seed')}"


def count(n: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{n:,} {noun}{'s' if n != 1 else ''}"
