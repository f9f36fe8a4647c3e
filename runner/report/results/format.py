"""Formatting of numbers on the page."""

import math

from runner.core.text import number
from runner.report.results.tables import Statistic

MOST_SEEDS = 1000  # more seeds than this are not reported as a number


def spread(statistic: Statistic | None, metric: str) -> str:
    """Format mean and deviation, `0.9123 ± 0.0021`; a single value without deviation."""
    if statistic is None:
        return "–"
    mean = number(statistic.mean, metric)
    if statistic.deviation is None or metric == "epochs":
        return mean
    return f"{mean} ± {number(statistic.deviation, metric)}"


def band(mean: float, deviation: float, metric: str) -> tuple[float, float]:
    """Return mean - deviation and mean + deviation; for an accuracy cut to [0, 1]."""
    low, high = mean - deviation, mean + deviation
    return (max(0.0, low), min(1.0, high)) if "accuracy" in metric else (low, high)


def probability(p: float) -> str:
    """Format a p value: `p = 0.031`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def further(more: float) -> str:
    """Format a number of seeds, `about 4 more seeds`, rounded to two digits because it is an estimate."""
    if math.isinf(more):
        return f"more than {MOST_SEEDS:,} more seeds"
    digits = max(0, len(str(int(more))) - 2)
    rounded = int(round(more, -digits))
    return f"about {count(rounded, 'more seed')}"


def count(n: int, noun: str) -> str:
    """Format a count with its noun: `1 run`, `3 runs`."""
    return f"{n:,} {noun}{'s' if n != 1 else ''}"
