"""Heat maps for pairs of factors, as HTML tables: they scale, scroll on a phone and work with screen readers."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.statistics.effects import Effects
from runner.report.statistics.factors import Factor

MOST_MAPS, MOST_LEVELS = 6, 12
_FAINTEST, _STRONGEST = 4, 50  # percent of the hue: text stays readable on it, in light and dark mode


@dataclass(frozen=True)
class Heat:
    """Heat map: `cells` [rows][columns] of (validation accuracy, test accuracy, percent of the hue), None if empty."""

    down: Factor
    across: Factor
    share: float | None  # of the variance, by the interaction of the two
    cells: list[list[tuple[float, float | None, int] | None]]


def heat_maps(swept: Sequence[Factor], effects: Effects, tests: Sequence[Mapping[str, float]]) -> list[Heat]:
    """Return heat maps, those with the largest interaction first, of factors with at most `MOST_LEVELS` levels.

    A cell is the mean of its combinations' least-squares means. `tests`: seed -> test accuracy of each combination.
    """
    shares = {term.factors: term.share for term in effects.terms if len(term.factors) == 2}
    small = [factor for factor in swept if len(factor.levels) <= MOST_LEVELS]
    pairs = sorted(itertools.combinations(small, 2), key=lambda pair: -shares.get(pair, 0.0))
    tested = np.array([np.mean(list(test.values())) if test else np.nan for test in tests])
    return [_heat(*pair, shares.get(pair), effects.fit.means, tested) for pair in pairs[:MOST_MAPS]]


def _heat(down: Factor, across: Factor, share: float | None, means: np.ndarray, tested: np.ndarray) -> Heat:
    if down.places and not across.places:  # an ordered factor goes across
        down, across = across, down
    grid: list[list[tuple[float, float | None] | None]] = []
    for row in range(len(down.levels)):
        masks = [(down.codes == row) & (across.codes == column) for column in range(len(across.levels))]
        grid.append([_mean(means[at], tested[at]) if at.any() else None for at in masks])
    accuracies = [cell[0] for line in grid for cell in line if cell]
    low, span = min(accuracies), (max(accuracies) - min(accuracies)) or 1.0
    strength = _STRONGEST - _FAINTEST
    cells = [
        [(*cell, round(_FAINTEST + strength * (cell[0] - low) / span)) if cell else None for cell in line]
        for line in grid
    ]
    return Heat(down, across, share, cells)


def _mean(means: np.ndarray, tested: np.ndarray) -> tuple[float, float | None]:
    return float(means.mean()), None if np.isnan(tested).any() else float(tested.mean())
