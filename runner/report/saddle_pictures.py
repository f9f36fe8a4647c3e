"""Pictures of `task=saddles`, in a font size for slides. Imports neither torch nor pyplot."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from runner.tracking.figure import pixels

BLUE, RED, GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe & Ito 2008: distinct for color-blind readers
SETTINGS = {"font.size": 15, "axes.titlesize": 16, "axes.labelsize": 16, "legend.fontsize": 14}
LINE = {"linewidth": 2.4, "markersize": 8}

Rows = Sequence[Mapping[str, Any]]


def of_functions(rows: Rows) -> np.ndarray:
    """Plot critical points of random functions, uint8 [H, W, 3].

    Over the dimension: the share of negative eigenvalues, and the shares of minima, saddles and maxima. Over the
    function's value: the share of negative eigenvalues.
    """
    dimension, negative, positive, value = (
        np.array([row[key] for row in rows], dtype=float) for key in ("dimension", "negative", "positive", "value")
    )
    dimensions = np.unique(dimension)
    groups = [dimension == n for n in dimensions]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(16, 6), dpi=100, layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        figure.suptitle(f"{len(rows):,} critical points of random functions")
        # Points of one dimension are drawn beside each other, in their order in `rows`.
        offsets = np.concatenate([np.linspace(-0.08, 0.08, group.sum()) for group in groups])
        order = np.argsort(dimension, kind="stable")
        left.plot(
            dimension[order] * np.exp(offsets), negative[order], "o", color="#9aa4af", markersize=4, label="each point"
        )
        means = [negative[group].mean() for group in groups]
        left.errorbar(
            dimensions,
            means,
            [negative[g].std() for g in groups],
            color=BLUE,
            marker="o",
            capsize=5,
            label="mean, sd",
            **LINE,
        )
        left.set_ylabel("share of directions that bend down")
        kinds = {
            "minima": (negative == 0, "o", BLUE),
            "saddles": ((negative > 0) & (positive > 0), "s", RED),
            "maxima": (positive == 0, "^", GREEN),
        }
        for name, (kind, marker, color) in kinds.items():
            middle.plot(dimensions, [kind[g].mean() for g in groups], marker=marker, color=color, label=name, **LINE)
        middle.set_ylabel("share of critical points")
        for axes in (left, middle):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(dimensions))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xlabel("dimension")
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(dimensions)))
        for n, group, shade in zip(dimensions, groups, shades):
            right.plot(value[group], negative[group], "o", color=shade, markersize=5, label=f"{n:.0f}")
        right.set_xlabel("value of the function there")
        right.set_ylabel("share of directions that bend down")
        for axes in (left, middle, right):
            axes.set_ylim(-0.04, 1.04)
            axes.grid(color="#dfe3e8", linewidth=0.8)
        left.legend()
        middle.legend()
        right.legend(title="dimension", fontsize=12, title_fontsize=12, loc="upper left")
        return pixels(figure)


def of_network(rows: Rows) -> np.ndarray:
    """Plot gradient norm and loss, shares of negative and positive eigenvalues, and the extreme eigenvalues over the
    training steps, uint8 [H, W, 3]."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(16, 6), dpi=100, layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        figure.suptitle("The Hessian of the training loss along a network's training")
        _lines(left, rows, {"value": "training loss", "gradient_norm": "norm of the gradient"})
        left.set_yscale("log")
        _lines(middle, rows, {"negative": "bend down", "positive": "bend up"})
        middle.set_ylabel("share of directions")
        middle.set_ylim(-0.04, 1.04)
        _lines(right, rows, {"smallest": "smallest", "largest": "largest"})
        right.set_ylabel("eigenvalues")
        right.set_yscale("symlog", linthresh=0.01)
        right.axhline(0, color="#5a626a", linewidth=1)
        return pixels(figure)


def _lines(axes: Axes, rows: Rows, columns: Mapping[str, str]) -> None:
    steps = [row["step"] for row in rows]
    for (key, label), color, marker in zip(columns.items(), (BLUE, RED), "os"):
        axes.plot(steps, [row[key] for row in rows], color=color, marker=marker, label=label, **LINE)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=-0.1)
    axes.set_xlabel("step")
    axes.grid(color="#dfe3e8", linewidth=0.8)
    axes.legend()
