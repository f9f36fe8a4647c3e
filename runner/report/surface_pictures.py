"""Pictures of `task=surface`: contours with paths, loss and step length over the steps, in a font size for slides.

Imports neither torch nor pyplot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from runner.tracking.figure import pixels

# Okabe & Ito 2008, distinct for color-blind readers; without their yellow, which is hardly visible on a light
# background, and with a brown and a gray. Markers distinguish paths as well, and dashes do when the colors repeat.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7a4a1e", "#7d7d7d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
DASHES = ("solid", (0, (4, 1.5)), (0, (1.2, 1.2)))
MOST = len(COLORS) * len(DASHES)  # paths in a picture; more could not be distinguished
LINES = 22  # contour lines
TINY = 1e-16  # smallest value on a logarithmic axis; smaller ones are drawn here
DPI = 100
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# From soft blue (low) to white (high): the colors of all paths stand out on it, in gray as well.
GROUND = LinearSegmentedColormap.from_list("ground", ["#b9cfe4", "#dde8f1", "#f1f5f8", "#ffffff"])
SETTINGS = {
    "font.size": 15,
    "axes.titlesize": 18,
    "axes.labelsize": 16,
    "legend.fontsize": 14,
    "axes.edgecolor": "#5a626a",
    "xtick.color": "#5a626a",
    "ytick.color": "#5a626a",
    "xtick.labelcolor": "#212529",
    "ytick.labelcolor": "#212529",
    "text.color": "#212529",
    "axes.labelcolor": "#212529",
    "mathtext.fontset": "dejavusans",
}


@dataclass(frozen=True)
class Ground:
    """The surface below the paths: values [H, W] over x [W] and y [H], and its facts from result.json."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    about: Mapping[str, Any]  # title, formula, minimum, minima, saddles, bend, tolerance


@dataclass(frozen=True)
class Trajectory:
    """An optimizer's path: the columns of its trajectory, and its label in the legend."""

    label: str
    verdict: str
    columns: Mapping[str, Sequence[float | None]]


def path_picture(ground: Ground, path: Trajectory) -> np.ndarray:
    """Draw the contours and one path, with a dot at each step; uint8 [H, W, 3]."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 7.5), dpi=DPI)
        axes = figure.add_axes((0.09, 0.09, 0.88, 0.83))
        _draw_contours(axes, ground)
        x, y = path.columns["x"], path.columns["y"]
        axes.plot(x, y, color="white", linewidth=4.5, zorder=3)  # a halo around the path, against the contour lines
        axes.plot(x, y, color=COLORS[1], linewidth=2.2, marker="o", markersize=4, zorder=4, label="path")
        _mark_ends(axes, ground, [path])
        axes.set_title(f"{path.label} on the {_title(ground)}: {path.verdict}")
        return pixels(figure)


def steps_picture(ground: Ground, path: Trajectory) -> np.ndarray:
    """Plot the loss above the minimum and the step length over the steps; uint8 [H, W, 3]."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(10, 7.5), dpi=DPI)
        upper, lower = figure.subplots(2, 1, sharex=True)
        figure.subplots_adjust(0.13, 0.09, 0.97, 0.93, hspace=0.08)
        _plot_losses(upper, ground, [path])
        upper.set_title(f"{path.label} on the {_title(ground)}: {path.verdict}")
        steps, lengths = path.columns["step"][1:], path.columns["step_length"][1:]
        lower.plot(steps, np.maximum(lengths, TINY), color=COLORS[0], linewidth=2.2)
        if any(length > TINY for length in lengths):
            _set_log_scale(lower)
        lower.set_ylabel("step length")
        lower.set_xlabel("step")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.grid(color="#dfe3e8", linewidth=0.8)
        return pixels(figure)


def overlay_picture(ground: Ground, paths: Sequence[Trajectory]) -> np.ndarray:
    """Draw all paths on a surface, and their losses over the steps; 16:9, uint8 [H, W, 3]."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(16, 9), dpi=DPI)
        longest = max(len(f"{path.label}: {path.verdict}") for path in paths[:MOST])
        legend_columns = 3 if longest <= 42 else 2 if longest <= 66 else 1
        rows = math.ceil(min(len(paths), MOST) / legend_columns)
        bottom = 0.11 + 0.034 * rows  # the legend needs this part of the height
        left = figure.add_axes((0.06, bottom, 0.53, 0.94 - bottom))
        right = figure.add_axes((0.655, bottom, 0.335, 0.94 - bottom))
        _draw_contours(left, ground)
        for i, path in enumerate(paths[:MOST]):
            x, y = path.columns["x"], path.columns["y"]
            left.plot(x, y, color="white", linewidth=4.5, zorder=3)
            left.plot(x, y, **style(i), markevery=_marker_indices(x, y, ground), zorder=4)
            left.plot(x[-1:], y[-1:], **style(i) | {"markersize": 13, "markeredgecolor": "white"}, zorder=6)
        _mark_ends(left, ground, paths)
        left.set_title(f"{_title(ground)[0].upper()}{_title(ground)[1:]}:  $f = {_formula(ground)}$")
        _plot_losses(right, ground, paths[:MOST])
        right.set_xlabel("step")
        right.set_title("Loss above the minimum")
        right.set_ylabel("")
        handles, names = right.get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=legend_columns, frameon=False)
        return pixels(figure)


def _draw_contours(axes: Axes, ground: Ground) -> None:
    """Draw the contours of a surface, and its saddles."""
    low, high = float(ground.about["minimum"]), float(ground.values.max())
    share = ((ground.values - low).clip(0) / (high - low)) ** (1 / ground.about["bend"])
    axes.contourf(ground.x, ground.y, share, LINES, cmap=GROUND, zorder=1)
    axes.contour(ground.x, ground.y, share, LINES, colors="#8aa2b8", linewidths=0.8, zorder=2)
    saddle = _saddle_marker(ground)
    for x, y in ground.about["saddles"]:
        axes.plot(x, y, **saddle, zorder=2.5)
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlim(ground.x[0], ground.x[-1])
    axes.set_ylim(ground.y[0], ground.y[-1])
    axes.set_xlabel("x")
    axes.set_ylabel("y", rotation=0, labelpad=12)


def _mark_ends(axes: Axes, ground: Ground, paths: Sequence[Trajectory]) -> None:
    """Mark the starts of paths and the minima on top of the picture, with a legend."""
    mark = {"linestyle": "", "markeredgecolor": "black"}
    for i, (x, y) in enumerate(sorted({(path.columns["x"][0], path.columns["y"][0]) for path in paths})):
        label = "start" if i == 0 else None
        axes.plot(x, y, marker="o", markersize=13, color="white", markeredgewidth=2.5, label=label, zorder=7, **mark)
    for i, (x, y) in enumerate(ground.about["minima"]):
        label = "minimum" if i == 0 else None
        axes.plot(x, y, marker="*", markersize=21, color="#f0e442", markeredgewidth=1.2, label=label, zorder=5, **mark)
    if ground.about["saddles"]:
        axes.plot([], [], **_saddle_marker(ground), label="saddle")
    axes.legend(loc="upper right", framealpha=0.92)


def _saddle_marker(ground: Ground) -> dict[str, Any]:
    """Return the marker of a saddle: a gray cross, small if there are many."""
    size = 11 if len(ground.about["saddles"]) <= 8 else 5
    return {"marker": "x", "markersize": size, "markeredgewidth": size / 4.4, "color": "#5a626a", "linestyle": ""}


def _plot_losses(axes: Axes, ground: Ground, paths: Sequence[Trajectory]) -> None:
    """Plot the loss above the minimum over the steps, and the tolerance as a line."""
    low, tolerance = ground.about["minimum"], ground.about["tolerance"]
    for i, path in enumerate(paths):
        above = np.maximum(np.asarray(path.columns["loss"], dtype=float) - low, TINY)
        axes.plot(
            path.columns["step"], above, **style(i), markevery=(i % 5 + 4, 25), label=f"{path.label}: {path.verdict}"
        )
    axes.axhline(tolerance, color="#5a626a", linewidth=1.2, linestyle=(0, (6, 4)))
    box = {"zorder": 8, "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}}
    transform = axes.get_yaxis_transform()  # x in [0, 1] across the axes, y in data units
    axes.text(0.995, tolerance, "tolerance ", ha="right", va="bottom", transform=transform, size=13, **box)
    _set_log_scale(axes)
    axes.set_ylim(bottom=max(TINY / 3, axes.get_ylim()[0]))
    axes.set_ylabel("loss above the minimum")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dfe3e8", linewidth=0.8)


def _set_log_scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with few major and no minor ticks, because it may span sixteen decades."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=9))
    axes.yaxis.set_minor_locator(NullLocator())
    # Plain characters, because rendering matplotlib's own labels as formulas takes most of a picture's time.
    axes.yaxis.set_major_formatter(lambda value, _: "10" + f"{round(math.log10(value))}".translate(RAISED))


def style(i: int) -> dict[str, Any]:
    """Return color, marker and dashes of path i, a unique combination."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i // len(COLORS) % len(DASHES)],
        "linewidth": 2.4,
        "markersize": 7,
    }


def _marker_indices(x: Sequence[float], y: Sequence[float], ground: Ground) -> list[int]:
    """Return the indices of points with a marker, at least 1/15 of the picture's width apart."""
    spacing, kept = (ground.x[-1] - ground.x[0]) / 15, [0]
    for i in range(1, len(x)):
        if np.hypot(x[i] - x[kept[-1]], y[i] - y[kept[-1]]) > spacing:
            kept.append(i)
    return kept[1:]


def _title(ground: Ground) -> str:
    """Return the surface's name in a title: `ravine`, or `Rosenbrock surface`."""
    title = ground.about["title"]
    return f"{title} surface" if title[0].isupper() else title


def _formula(ground: Ground) -> str:
    scale, formula = ground.about["scale"], ground.about["formula"]
    return formula if scale == 1 else rf"{scale:g}\;[\,{formula}\,]"
