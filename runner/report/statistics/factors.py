"""A swept key as a factor: its levels in order, and where they stand on an axis."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.results.collect import natural
from runner.report.results.tables import Row

DECADES = 30  # largest over smallest positive number, from which on the axis is logarithmic
SCATTERED = 8  # levels, above which a numeric factor with hardly two runs a level is drawn run by run


@dataclass(frozen=True, eq=False)
class Factor:
    """`keys` that change together (one, as a rule); `codes` [rows]: which of `levels` each combination has.

    `places` are the levels' positions on an axis, None for a factor without an order: the numbers (or their
    logarithms), then the words (`all`, `null`), each a step further on.
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
        """The levels as an axis names them: numbers of many digits (0.0012345678) with three."""
        return tuple(
            f"{float(level):.3g}" if i < self.numbers and len(level) > 7 and "%" not in level else level
            for i, level in enumerate(self.levels)
        )

    def scattered(self, runs: int) -> bool:
        """Whether it has about as many values as there are `runs`, as in a random search."""
        return self.places is not None and len(self.levels) > max(SCATTERED, runs / 2)


def factors(rows: Sequence[Row], names: Sequence[str]) -> list[Factor]:
    """Those of the keys `names` that vary over `rows`; keys whose values go in step are one factor."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        values = [row.values[name] for row in rows]
        first = {value: i for i, value in reversed(list(enumerate(values)))}
        if len(first) > 1:
            found.setdefault(tuple(first[value] for value in values), []).append(name)
    return [_factor(tuple(keys), [row.values[keys[0]] for row in rows]) for keys in found.values()]


def _factor(keys: tuple[str, ...], values: Sequence[str]) -> Factor:
    distinct = set(values)
    number = {value: parsed for value in distinct if (parsed := _number(value)) is not None}
    words = sorted(distinct - set(number), key=natural)
    levels = (*sorted(number, key=number.__getitem__), *words)
    code = {level: i for i, level in enumerate(levels)}
    ordered = len(number) >= 2 and len(number) > len(words)
    log = ordered and _spread([number[level] for level in levels if level in number])
    return Factor(
        keys=keys,
        levels=tuple(level or "(not set)" for level in levels),
        codes=np.array([code[value] for value in values]),
        numbers=len(number),
        places=_places([number[level] for level in levels[: len(number)]], len(words), log) if ordered else None,
        log=log,
    )


def _number(text: str) -> float | None:
    """`0.1`, `1e-3`, `5%`; words and `nan` are none."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _spread(numbers: Sequence[float]) -> bool:
    positive = [value for value in numbers if value > 0]
    return min(numbers) >= 0 and len(positive) >= 2 and max(positive) >= DECADES * min(positive)


def _places(numbers: Sequence[float], words: int, log: bool) -> tuple[float, ...]:
    """On a logarithmic axis zero stands a step before the smallest number."""
    places = [math.log10(value) for value in numbers if value > 0] if log else list(numbers)
    step = statistics.median(b - a for a, b in zip(places, places[1:]))
    if len(places) < len(numbers):
        places.insert(0, places[0] - step)
    return (*places, *(places[-1] + step * (i + 1) for i in range(words)))
