"""Learning curves, a line for each combination."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from runner.report.pictures.svg import HUES, REST, STYLES, panel, plain_log, settings, to_svg
from runner.report.results.format import band
from runner.report.results.tables import Row

PANELS = (
    ("val_accuracy", "Validation accuracy"),
    ("val_loss", "Validation loss"),
    ("train_loss", "Training loss"),
    ("lr", "Learning rate"),
)
MOST_GREY = 100  # gray lines behind the colored ones; more would merge into an area and double the page's size


@dataclass(frozen=True)
class Line:
    """A combination's mean curve over its seeds, at the epochs that all of its seeds have."""

    epochs: list[float]
    mean: list[float]
    deviation: list[float] | None


def learning_curves(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return (title, SVG) of each panel that has data; `rows` in the order of the leaderboard."""
    pictures = []
    with settings():
        for column, title in PANELS:
            lines = [mean_line(row, column) for row in rows]
            if any(lines):
                pictures.append((title, _panel(lines, column, title)))
    return pictures


def mean_line(row: Row, column: str) -> Line | None:
    """Return the mean curve of the finished runs, or of all runs if none has finished."""
    curves = []
    for record in row.done or row.records:
        epochs, values = record.curves.get("epoch", []), record.curves.get(column, [])
        curve = {epoch: value for epoch, value in zip(epochs, values) if value is not None}
        if curve:
            curves.append(curve)
    if not curves:
        return None
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in shared]
    deviation = [statistics.stdev(at) for at in values] if len(curves) > 1 else None
    return Line(shared, [statistics.fmean(at) for at in values], deviation) if shared else None


def _panel(lines: list[Line | None], column: str, title: str) -> str:
    figure, axes = panel(left=0.75)
    colored = [(i, line) for i, line in enumerate(lines[: len(STYLES)]) if line]
    rest = [line for line in lines[len(STYLES) :] if line]
    paths = [list(zip(line.epochs, line.mean)) for line in rest[:MOST_GREY]]
    axes.add_collection(LineCollection(paths, colors=REST, linewidths=0.7, alpha=0.6, zorder=1))
    for i, best in reversed(colored):  # the first in the table is drawn last, on top
        _draw(axes, best, column, *STYLES[i])
    _scale(axes, [line for _, line in colored] or rest, loss="loss" in column)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return to_svg(figure, column, f"{title} over epochs, one line a combination")


def _draw(axes: Axes, best: Line, column: str, hue: int, dashes: tuple[int, int] | None) -> None:
    marker = "o" if len(best.epochs) < 4 else None  # a line through a single epoch would be invisible
    style = {"dashes": dashes} if dashes else {}
    axes.plot(
        best.epochs,
        best.mean,
        color=HUES[hue],
        linewidth=1.8,
        marker=marker,
        markersize=4,
        zorder=3,
        **style,
    )
    if best.deviation:
        low, high = zip(*(band(mean, deviation, column) for mean, deviation in zip(best.mean, best.deviation)))
        axes.fill_between(best.epochs, low, high, color=HUES[hue], alpha=0.14, linewidth=0, zorder=2)


def _scale(axes: Axes, shown: list[Line], loss: bool) -> None:
    """Fit the y axis to the colored lines after their first fifth; a diverged run or steep first epochs would
    flatten them."""
    values = [value for line in shown for value in line.mean[len(line.mean) // 5 :]]
    low, high = min(values), max(values)
    if loss and low > 0 and high > 30 * low:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
        axes.set_ylim(low / 1.2, high * 1.2)
        return
    margin = 0.06 * (high - low) or 0.02 * abs(high) or 0.01
    if math.isfinite(high - low):
        axes.set_ylim(low - margin, high + margin)
