"""Heat maps for pairs of factors, as tables: they scale, scroll on a phone and can be read aloud."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.statistics.effects import Effects
from runner.report.statistics.factors import Factor

MOST_MAPS, MOST_LEVELS = 6, 12
_FAINTEST, _STRONGEST = 4, 50  # percent of the hue: the ink stays readable on it, light and dark


@dataclass(frozen=True)
class Heat:
    """`cells` [rows][columns]: (validation accuracy, test accuracy, percent of the hue), None where nothing ran."""

    down: Factor
    across: Factor
    share: float | None  # of the variance, by the interaction of the two
    cells: list[list[tuple[float, float | None, int] | None]]


def heat_maps(found: Sequence[Factor], effects: Effects, tests: Sequence[Mapping[str, float]]) -> list[Heat]:
    """The pairs with the largest interaction first; those with very many values are left out.

    A cell is the mean of its combinations' least-squares means. `tests`: seed -> test accuracy a combination.
    """
    shares = {term.factors: term.share for term in effects.terms if len(term.factors) == 2}
    small = [factor for factor in found if len(factor.levels) <= MOST_LEVELS]
    pairs = sorted(itertools.combinations(small, 2), key=lambda pair: -shares.get(pair, 0.0))
    tested = np.array([np.mean(list(test.values())) if test else np.nan for test in tests])
    return [_heat(*pair, shares.get(pair), effects.fit.means, tested) for pair in pairs[:MOST_MAPS]]


def _heat(down: Factor, across: Factor, share: float | None, means: np.ndarray, tested: np.ndarray) -> Heat:
    if down.places and not across.places:  # what has an order reads along the line
        down, across = across, down
    grid: list[list[tuple[float, float | None] | None]] = []
    for row in range(len(down.levels)):
        here = [(down.codes == row) & (across.codes == column) for column in range(len(across.levels))]
        grid.append([_mean(means[at], tested[at]) if at.any() else None for at in here])
    known = [cell[0] for line in grid for cell in line if cell]
    low, span = min(known), (max(known) - min(known)) or 1.0
    strength = _STRONGEST - _FAINTEST
    cells = [
        [(*cell, round(_FAINTEST + strength * (cell[0] - low) / span)) if cell else None for cell in line]
        for line in grid
    ]
    return Heat(down, across, share, cells)


def _mean(means: np.ndarray, tested: np.ndarray) -> tuple[float, float | None]:
    return float(means.mean()), None if np.isnan(tested).any() else float(tested.mean())
