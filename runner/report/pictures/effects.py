"""Plots of the factors: a line over ordered values, dots for unordered ones, a scatter plot without a design."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from runner.report.pictures.svg import HUES, REST, panel, settings, short, ticks, to_svg
from runner.report.statistics.effects import Margin
from runner.report.statistics.factors import Factor

_CAP = {"capsize": 3, "capthick": 1.2, "elinewidth": 1.2}


def factor_panels(
    swept: Sequence[Factor], margins: Sequence[Sequence[Margin]], tested: Sequence[Sequence[Margin]] | None
) -> list[tuple[str, str]]:
    """Return (title, SVG) of each factor: validation accuracy with intervals, and test accuracy behind it if known.

    All panels have the same accuracy axis, so that a large effect looks large.
    """
    with settings():
        limits = _limits([*margins, *(tested or [])])
        behind = tested or [None] * len(swept)
        panels = enumerate(zip(swept, margins, behind))
        return [(factor.title, _panel(i, factor, levels, test, limits)) for i, (factor, levels, test) in panels]


def scatter_panels(swept: Sequence[Factor], cells: Sequence[Mapping[str, float]]) -> list[tuple[str, str]]:
    """Return (title, SVG) of each factor with a dot for each run, for designs such as a random search."""
    with settings():
        return [(factor.title, _scatter(i, factor, cells)) for i, factor in enumerate(swept)]


def _limits(groups: Sequence[Sequence[Margin]]) -> tuple[float, float]:
    known = [margin for group in groups for margin in group if margin.mean is not None]
    ends = [end for margin in known for end in (margin.mean, margin.low, margin.high) if end is not None]
    margin = 0.06 * (max(ends) - min(ends)) or 0.01
    return min(ends) - margin, max(ends) + margin


def _panel(
    number: int, factor: Factor, margins: Sequence[Margin], tested: Sequence[Margin] | None, limits: tuple[float, float]
) -> str:
    rows = 0 if factor.places else len(factor.levels)
    names = max(len(short(level)) for level in factor.levels)
    left = 0.75 if factor.places else 0.3 + 0.088 * names
    figure, axes = panel(4.6, max(2.6, 1.1 + 0.3 * rows), left=left)
    draw = _line if factor.places else _dots
    if tested is not None:
        draw(axes, factor, tested, limits, behind=True)
    draw(axes, factor, margins, limits, behind=False)
    return to_svg(figure, f"effect{number}", f"accuracy over {factor.title}")


def _line(axes: Axes, factor: Factor, margins: Sequence[Margin], limits: tuple[float, float], behind: bool) -> None:
    """Plot levels as a line, solid through numbers and dotted on to words such as `null`."""
    known = [i for i, margin in enumerate(margins) if margin.mean is not None]
    offset = 0.012 * (max(factor.places) - min(factor.places)) if behind else 0.0
    x, y = [factor.places[i] + offset for i in known], [margins[i].mean for i in known]
    color = REST if behind else HUES[0]
    numeric = sum(i < factor.numbers for i in known)
    axes.plot(x[:numeric], y[:numeric], color=color, linewidth=1.2 if behind else 1.8, zorder=2)
    axes.plot(x[max(0, numeric - 1) :], y[max(0, numeric - 1) :], color=color, linewidth=1.2, linestyle=":", zorder=2)
    axes.errorbar(x, y, yerr=_bars(margins, known), fmt="o", color=color, markersize=3 if behind else 5, **_CAP)
    ticks(axes, factor.places, [short(level, 14) for level in factor.levels])
    axes.set_ylim(*limits)
    axes.set_xlabel(short(factor.title, 48) + (", logarithmic" if factor.log else ""))
    axes.set_ylabel("accuracy")


def _dots(axes: Axes, factor: Factor, margins: Sequence[Margin], limits: tuple[float, float], behind: bool) -> None:
    known = [i for i, margin in enumerate(margins) if margin.mean is not None]
    y = np.array(known) + (0.18 if behind else 0.0)
    color = REST if behind else HUES[0]
    means = [margins[i].mean for i in known]
    axes.errorbar(means, y, xerr=_bars(margins, known), fmt="o", color=color, markersize=3 if behind else 5, **_CAP)
    axes.set_yticks(range(len(factor.levels)), [short(level) for level in factor.levels])
    axes.set_ylim(len(factor.levels) - 0.5, -0.5)
    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("accuracy")


def _bars(margins: Sequence[Margin], known: Sequence[int]) -> list[list[float]] | None:
    """Return the lengths of the intervals below and above the means, at least 0 (a mean may be outside [0, 1])."""
    shown = [margins[i] for i in known]
    if any(margin.low is None for margin in shown):
        return None
    return [
        [max(0.0, margin.mean - margin.low) for margin in shown],
        [max(0.0, margin.high - margin.mean) for margin in shown],
    ]


def _scatter(number: int, factor: Factor, cells: Sequence[Mapping[str, float]]) -> str:
    values = [(code, value) for code, cell in zip(factor.codes, cells) for value in cell.values()]
    places = factor.places or tuple(range(len(factor.levels)))
    figure, axes = panel(4.6, 2.6, left=0.75)
    axes.plot(
        [places[code] for code, _ in values],
        [value for _, value in values],
        "o",
        color=HUES[0],
        markersize=4,
        alpha=0.6,
    )
    decades = range(math.ceil(min(places)), math.floor(max(places)) + 1) if factor.log else ()
    if len(decades) > 1 and factor.numbers == len(factor.levels):
        ticks(axes, decades, [f"{10.0**decade:g}" for decade in decades])
    else:
        ticks(axes, places, [short(mark, 14) for mark in factor.marks])
    axes.set_xlabel(short(factor.title, 48) + (", logarithmic" if factor.log else ""))
    axes.set_ylabel("validation accuracy")
    return to_svg(figure, f"scatter{number}", f"validation accuracy of each run over {factor.title}")
