"""Learning curves as SVG that takes its colours from the page (so dark and light both work). No pyplot."""

import io
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runner.report.tables import Row

PANELS = (
    ("val_accuracy", "Validation accuracy"),
    ("val_loss", "Validation loss"),
    ("train_loss", "Training loss"),
    ("lr", "Learning rate"),
)
# Six hues that every colour vision tells apart (Okabe and Ito 2008, without black and yellow, which one of
# the two page colours would swallow), then four of them again, dashed. The page defines --c0 to --c5.
STYLES = tuple((hue, None) for hue in range(6)) + tuple((hue, (4, 2)) for hue in (0, 1, 2, 5))

# Stand-ins that matplotlib writes into the file and the page's own colours replace.
_INK, _GRID, _REST = "#010203", "#010204", "#010205"
_HUES = tuple(f"#0102{0x10 + hue:02x}" for hue in range(6))
_VARIABLES = {_INK: "currentColor", _GRID: "var(--line)", _REST: "var(--rest)"} | {
    hue: f"var(--c{i})" for i, hue in enumerate(_HUES)
}
_SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Line:
    """A combination's mean over its seeds, epoch by epoch, as far as all of its seeds got."""

    epochs: list[float]
    mean: list[float]
    deviation: list[float] | None


def learning_curves(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """(title, svg) of each panel that has data; `rows` in the order of the leaderboard."""
    pictures = []
    with matplotlib.rc_context(_SETTINGS):
        for column, title in PANELS:
            lines = [line(row, column) for row in rows]
            if any(lines):
                pictures.append((title, _panel(lines, column, title)))
    return pictures


def line(row: Row, column: str) -> Line | None:
    """Over the runs that are done; where none is, over what the others left."""
    curves = []
    for record in row.done or row.records:
        epochs, values = record.curves.get("epoch", []), record.curves.get(column, [])
        known = {epoch: value for epoch, value in zip(epochs, values) if value is not None}
        if known:
            curves.append(known)
    if not curves:
        return None
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in shared]
    deviation = [statistics.stdev(at) for at in values] if len(curves) > 1 else None
    return Line(shared, [statistics.fmean(at) for at in values], deviation) if shared else None


def _panel(lines: list[Line | None], column: str, title: str) -> str:
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    coloured = [(i, line) for i, line in enumerate(lines[: len(STYLES)]) if line]
    rest = [line for line in lines[len(STYLES) :] if line]
    for other in rest:
        axes.plot(other.epochs, other.mean, color=_REST, linewidth=0.7, alpha=0.6, zorder=1)
    for i, best in reversed(coloured):  # the first in the table is drawn last, on top
        _draw(axes, best, *STYLES[i])
    _scale(axes, [line for _, line in coloured] or rest, loss="loss" in column)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return _svg(figure, column, f"{title} over epochs, one line a combination")


def _draw(axes: Axes, best: Line, hue: int, dashes: tuple[int, int] | None) -> None:
    marker = "o" if len(best.epochs) < 4 else None  # one epoch alone would leave no mark at all
    style = {"dashes": dashes} if dashes else {}
    axes.plot(
        best.epochs,
        best.mean,
        color=_HUES[hue],
        linewidth=1.8,
        marker=marker,
        markersize=4,
        zorder=3,
        **style,
    )
    if best.deviation:
        low = [m - d for m, d in zip(best.mean, best.deviation)]
        high = [m + d for m, d in zip(best.mean, best.deviation)]
        axes.fill_between(best.epochs, low, high, color=_HUES[hue], alpha=0.14, linewidth=0, zorder=2)


def _scale(axes: Axes, shown: list[Line], loss: bool) -> None:
    """The coloured lines fill the panel; a diverged run or the first steep epochs would flatten them."""
    values = [value for line in shown for value in line.mean[len(line.mean) // 5 :]]
    low, high = min(values), max(values)
    if loss and low > 0 and high > 30 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
        return
    margin = 0.06 * (high - low) or 0.02 * abs(high) or 0.01
    if math.isfinite(high - low):
        axes.set_ylim(low - margin, high + margin)


def _svg(figure: Figure, name: str, label: str) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same folder gives the same bytes
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)  # several pictures share the page
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    size = re.search(r'viewBox="[^"]*"', text).group()
    return re.sub(r"<svg[^>]*>", f'<svg {size} role="img" aria-label="{label}">', text, count=1)
