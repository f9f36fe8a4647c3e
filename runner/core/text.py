"""Formatting of lists, numbers, durations and errors for messages, tables and reports. Imports no torch."""

from collections.abc import Iterable
from typing import Any


def few(items: Iterable[str], most: int = 4, between: str = ", ", last: str = " and ") -> str:
    """Join the first items, and count the others: `a, b, c, d and 3 more`."""
    items = list(items)
    remainder = f"{last}{len(items) - most} more" if len(items) > most else ""
    return between.join(items[:most]) + remainder


def number(value: float | str | None, metric: str = "", missing: str = "-") -> str:
    """Format a value of a result: fractions with four decimals, seconds with one, counts and words as they are."""
    if value is None:
        return missing
    if metric == "epochs":
        return f"{value:.1f}".removesuffix(".0")
    if metric == "seconds":
        return f"{value:,.1f}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Format a duration: `4.2 s`, `2 min 3 s`, `1 h 5 min`, `2 days 3 h`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remainder} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def type_and_line(error: BaseException) -> str:
    """Return an error's type and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def shown(value: Any) -> str:
    """Return a value as a user types it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{shown(item)}" for key, item in value.items()) + "}"
    return str(value)
