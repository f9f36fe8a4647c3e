"""Plots of all combinations: parallel coordinates, and accuracy over time and memory."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from runner.report.pictures.svg import CARD, HUES, INK, REST, STYLES, panel, plain_log, settings, short, to_svg
from runner.report.results.tables import Row
from runner.report.statistics.factors import Factor

MOST_GREY = 300
_MOST_NAMES = 9  # along an axis
_HALO = {"boxstyle": "square,pad=0.1", "facecolor": CARD, "edgecolor": "none", "alpha": 0.8}


def parallel_coordinates(rows: Sequence[Row], swept: Sequence[Factor], means: Sequence[float]) -> str:
    """Return an SVG with a line for each combination, an axis for each factor, and validation accuracy on the last.

    The first of `rows` have colors. `means` [rows] are the accuracies; `swept` has codes for the same rows.
    """
    heights = [_heights(factor) for factor in swept]
    low, high = min(means), max(means)
    last = [(mean - low) / ((high - low) or 1.0) for mean in means]
    lines = np.array(
        [[*(height[factor.codes[i]] for height, factor in zip(heights, swept)), last[i]] for i in range(len(rows))]
    )
    x = np.arange(len(swept) + 1)
    with settings():
        figure, axes = panel(max(4.6, 1.7 * len(x)), 3.4, left=0.25, bottom=0.35)
        axes.grid(False)
        rest = lines[len(STYLES) :]
        rest = rest[:: max(1, -(-len(rest) // MOST_GREY))]
        paths = [np.column_stack([x, line]) for line in rest]
        axes.add_collection(LineCollection(paths, colors=REST, linewidths=0.7, alpha=0.45, zorder=1))
        for i, (line, (hue, dashes)) in reversed(list(enumerate(zip(lines, STYLES)))):
            line = np.r_[line[:-1] + 0.008 * i, line[-1]]  # an offset, so that lines do not hide each other
            style = {"dashes": dashes} if dashes else {}
            axes.plot(x, line, color=HUES[hue], linewidth=1.8, zorder=3, **style)
        for place, (factor, height) in enumerate(zip(swept, heights)):
            _axis(axes, place, height, factor.marks)
        _axis(axes, x[-1], [0.0, 0.5, 1.0], [f"{value:.4f}" for value in (low, (low + high) / 2, high)])
        axes.set_xticks(x, [*(short(factor.keys[0].rpartition(".")[2], 16) for factor in swept), "val accuracy"])
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlim(-0.1, x[-1] + 0.45)
        axes.set_ylim(-0.06, 1.12)
        return to_svg(
            figure, "parallel", "parallel coordinates: a line a combination, through its values to its accuracy"
        )


def costs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return (title, SVG) of validation accuracy over seconds, and over peak memory if the results contain it."""
    pictures = []
    with settings():
        for title, name, measure in (("Seconds a run", "seconds", seconds), ("Peak memory, MB", "memory", memory)):
            points = [(i, cost, row.metrics["val_accuracy"]) for i, row in enumerate(rows) if (cost := measure(row))]
            points = [(i, cost, accuracy.mean) for i, cost, accuracy in points if accuracy]
            if len(points) > 1:
                pictures.append((title, _cloud(points, name, title)))
    return pictures


def seconds(row: Row) -> float | None:
    """Return the mean seconds of the finished runs."""
    return row.metrics["seconds"].mean if row.metrics["seconds"] else None


def memory(row: Row) -> float | None:
    """Return the largest peak memory of the finished runs in MB; None if no result contains it."""
    peaks = [record.facts.get("peak_memory_mb") for record in row.done]
    return max((value for value in peaks if isinstance(value, int | float)), default=None)


def _cloud(points: Sequence[tuple[int, float, float]], name: str, title: str) -> str:
    figure, axes = panel(left=0.75)
    rest = [(cost, accuracy) for i, cost, accuracy in points if i >= len(STYLES)]
    axes.plot(*zip(*rest) if rest else ([], []), "o", color=REST, markersize=3, alpha=0.6, zorder=1)
    for i, cost, accuracy in reversed(points):
        if i < len(STYLES):
            hue, dashes = STYLES[i]
            axes.plot(cost, accuracy, "s" if dashes else "o", color=HUES[hue], markersize=6, zorder=3)
    values = [cost for _, cost, _ in points]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
        plain_log(axes.xaxis)
    axes.set_xlabel(title[0].lower() + title[1:])
    axes.set_ylabel("validation accuracy")
    return to_svg(figure, name, f"validation accuracy over {title.lower()}, a dot a combination")


def _heights(factor: Factor) -> list[float]:
    places = factor.places or range(len(factor.levels))
    low, high = min(places), max(places)
    return [(place - low) / (high - low) for place in places]


def _axis(axes: Axes, place: float, heights: Sequence[float], names: Sequence[str]) -> None:
    axes.axvline(place, color=INK, linewidth=0.8, zorder=2)
    step = max(1, -(-len(names) // _MOST_NAMES))
    for height, name in list(zip(heights, names))[::step]:
        axes.annotate(
            short(name, 16),
            (place, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            zorder=4,
            bbox=_HALO,
        )
