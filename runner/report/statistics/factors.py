"""Factors: swept keys with their levels in order, and the positions of these on an axis."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.results.collect import natural
from runner.report.results.tables import Row

DECADES = 30  # ratio of largest to smallest positive number from which the axis is logarithmic
SCATTERED = 8  # a numeric factor with more levels, and fewer than two runs for each, is drawn as a scatter plot


@dataclass(frozen=True, eq=False)
class Factor:
    """Factor: `keys` that change together (usually one). `codes` [rows]: the index in `levels` of each combination.

    `places` are the levels' positions on an axis, None for a factor without an order: the numbers (or their
    logarithms), then words such as `null`, one step apart.
    """

    keys: tuple[str, ...]
    levels: tuple[str, ...]
    codes: np.ndarray
    numbers: int  # how many of the levels are numbers; they come first
    places: tuple[float, ...] | None
    log: bool

    @property
    def title(self) -> str:
        return self.keys[0] + (f" (with {', '.join(self.keys[1:])})" if len(self.keys) > 1 else "")

    @property
    def marks(self) -> tuple[str, ...]:
        """Return the labels of the levels on an axis: long numbers (0.0012345678) with three digits."""
        return tuple(
            f"{float(level):.3g}" if i < self.numbers and len(level) > 7 and "%" not in level else level
            for i, level in enumerate(self.levels)
        )

    def is_scattered(self, runs: int) -> bool:
        """Return whether it has about as many levels as there are `runs`, as in a random search."""
        return self.places is not None and len(self.levels) > max(SCATTERED, runs / 2)


def factors(rows: Sequence[Row], names: Sequence[str]) -> list[Factor]:
    """Return the keys of `names` that vary over `rows` as factors; keys that vary together are one factor."""
    keys_by_codes: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        values = [row.values[name] for row in rows]
        first = {value: i for i, value in reversed(list(enumerate(values)))}
        if len(first) > 1:
            keys_by_codes.setdefault(tuple(first[value] for value in values), []).append(name)
    return [_factor(tuple(keys), [row.values[keys[0]] for row in rows]) for keys in keys_by_codes.values()]


def _factor(keys: tuple[str, ...], values: Sequence[str]) -> Factor:
    distinct = set(values)
    number = {value: parsed for value in distinct if (parsed := _number(value)) is not None}
    words = sorted(distinct - set(number), key=natural)
    levels = (*sorted(number, key=number.__getitem__), *words)
    code = {level: i for i, level in enumerate(levels)}
    is_ordered = len(number) >= 2 and len(number) > len(words)
    log = is_ordered and _needs_log([number[level] for level in levels if level in number])
    return Factor(
        keys=keys,
        levels=tuple(level or "(not set)" for level in levels),
        codes=np.array([code[value] for value in values]),
        numbers=len(number),
        places=_places([number[level] for level in levels[: len(number)]], len(words), log) if is_ordered else None,
        log=log,
    )


def _number(text: str) -> float | None:
    """Parse `0.1`, `1e-3`, `5%`; return None for words and `nan`."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _needs_log(numbers: Sequence[float]) -> bool:
    positive = [value for value in numbers if value > 0]
    return min(numbers) >= 0 and len(positive) >= 2 and max(positive) >= DECADES * min(positive)


def _places(numbers: Sequence[float], words: int, log: bool) -> tuple[float, ...]:
    """Return the positions on an axis; on a logarithmic one zero is one step before the smallest number."""
    places = [math.log10(value) for value in numbers if value > 0] if log else list(numbers)
    step = statistics.median(b - a for a, b in zip(places, places[1:]))
    if len(places) < len(numbers):
        places.insert(0, places[0] - step)
    return (*places, *(places[-1] + step * (i + 1) for i in range(words)))
