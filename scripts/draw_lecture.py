"""Draws docs/pictures/lecture_*.png from the runs of the lecture's experiments.

python scripts/draw_lecture.py outputs/lecture docs/pictures
"""

import csv
import io
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from runner.report import surface_pictures as pictures
from runner.report.surfaces import columns
from runner.tracking.figure import pixels

WIDTH = 960  # pixels
SURFACES = ("ravine", "saddle_point", "nesterov", "adagrad_step_size", "rmsprop_decay", "adam_first_step")

Runs = list[tuple[Path, dict[str, Any]]]


def runs_of(folder: Path) -> Runs:
    """Folders and results, in the order of their commands."""
    found = [(path.parent, json.loads(path.read_text())) for path in folder.glob("*/result.json")]
    return sorted(found, key=lambda run: run[1]["started"])


def typed(result: dict[str, Any]) -> dict[str, str]:
    """What was typed, or swept, by key."""
    return dict(word.lstrip("+").split("=", 1) for word in result["overrides"])


def label(result: dict[str, Any], runs: Runs) -> str:
    """`momentum, lr=0.1`: keys without their groups, those that the runs differ in."""
    words = typed(result)
    name = words.pop("optimizer", result["choices"]["optimizer"])
    varied = [key for key in words if len({typed(other).get(key) for _, other in runs}) > 1]
    named = {typed(other).get("optimizer") for _, other in runs} != {None}
    return ", ".join([*([name] if named else []), *(f"{key.rpartition('.')[2]}={words[key]}" for key in varied)])


def surface(runs: Runs) -> np.ndarray:
    """All paths of an experiment."""
    with np.load(runs[0][0] / "surface.npz") as file:
        ground = pictures.Ground(file["x"], file["y"], file["values"], runs[0][1]["surface"])
    return pictures.overlay_picture(
        ground, [pictures.Trajectory(label(r, runs), r["verdict"], columns(f / "trajectory.csv")) for f, r in runs]
    )


def curves(folder: Path) -> dict[str, list[float]]:
    """The columns of a run's metrics.csv."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key] or "nan") for row in rows] for key in rows[0]}


def figure(draw: Callable[[Figure], None]) -> np.ndarray:
    """A picture with large letters."""
    with matplotlib.rc_context(pictures.SETTINGS):
        page = Figure(figsize=(13, 6), dpi=100, layout="constrained")
        draw(page)
        return pixels(page)


def decay(runs: Runs) -> np.ndarray:
    """Training loss over epochs, mean and range of the seeds."""

    def draw(page: Figure) -> None:
        axes = page.subplots()
        for i, name in enumerate(("constant", "step", "cosine")):
            found = [curves(f)["train_loss"] for f, r in runs if typed(r)["schedule"] == name]
            mean, low, high = np.mean(found, 0), np.min(found, 0), np.max(found, 0)
            epochs = np.arange(1, len(mean) + 1)
            axes.plot(epochs, mean, **pictures.style(i), label=f"{name}, mean and range of {len(found)} seeds")
            axes.fill_between(epochs, low, high, color=pictures.COLORS[i], alpha=0.15)
        axes.set(
            yscale="log", xlabel="epoch", ylabel="training loss", title="The rate is cut after 10 and 20 epochs (step)"
        )
        finish(axes)

    return figure(draw)


def second_order(runs: Runs) -> np.ndarray:
    """Training loss over steps and over seconds; of Adam its long runs."""

    def draw(page: Figure) -> None:
        left, right = page.subplots(1, 2, sharey=True)
        shown = [(f, r) for f, r in runs if typed(r)["optimizer"] != "adam" or typed(r)["epochs"] == "200"]
        for i, (folder, result) in enumerate(shown):
            found = curves(folder)
            words = typed(result)
            name = words["optimizer"] + (f", lr={words['optimizer.lr']}" if "optimizer.lr" in words else "")
            left.plot(found["step"], found["train_loss"], **pictures.style(i), markevery=0.2, label=name)
            right.plot(found["seconds"], found["train_loss"], **pictures.style(i), markevery=0.2, label=name)
        left.set(xscale="log", yscale="log", xlabel="step", ylabel="training loss", title="One full batch a step")
        right.set(xscale="log", yscale="log", xlabel="seconds", title="The same over time")
        left.set_ylim(1e-6, 5)
        finish(left)
        right.grid(color="#dfe3e8", linewidth=0.8)

    return figure(draw)


def dots(runs: Runs, name: Callable[[dict[str, Any]], str], title: str) -> np.ndarray:
    """Test accuracy of every seed, one row a combination."""

    def draw(page: Figure) -> None:
        groups: dict[str, list[float]] = {}
        for _, result in runs:
            groups.setdefault(name(result), [])
            if result["status"] == "done":
                groups[name(result)].append(result["test_accuracy"])
        axes = page.subplots()
        order = sorted(groups, key=lambda key: statistics.fmean(groups[key]))
        for y, key in enumerate(order):
            axes.plot(groups[key], [y] * len(groups[key]), "o", color=pictures.COLORS[0], alpha=0.6, markersize=9)
            axes.plot([statistics.fmean(groups[key])] * 2, [y - 0.3, y + 0.3], color="#000000", linewidth=2.5)
        axes.set_yticks(range(len(order)), [f"{key} ({len(groups[key])})" for key in order])
        axes.set(xlabel="test accuracy: a dot a seed, a bar at the mean", title=title)
        axes.grid(color="#dfe3e8", linewidth=0.8)

    return figure(draw)


def finish(axes: Axes) -> None:
    """Grid and legend."""
    axes.grid(color="#dfe3e8", linewidth=0.8)
    axes.legend()


def save(image: np.ndarray, path: Path) -> None:
    """Small: `WIDTH` wide, 256 colours."""
    picture = Image.fromarray(image)
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=5, dither=Image.Dither.NONE).save(
        file, "PNG", optimize=True
    )
    path.write_bytes(file.getvalue())


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    drawn = {name: surface(runs_of(source / name)) for name in SURFACES}
    drawn["learning_rate_decay"] = decay(runs_of(source / "learning_rate_decay"))
    drawn["second_order"] = second_order(runs_of(source / "second_order"))
    drawn["lbfgs_minibatch"] = dots(
        runs_of(source / "lbfgs_minibatch"),
        lambda r: f"{typed(r)['optimizer']}, full_batch={typed(r)['optimizer.full_batch']}, x {typed(r)['lr_scale']}",
        "L-BFGS and Adam on digits (number of seeds that did not diverge)",
    )
    drawn["optimizers"] = dots(
        runs_of(source / "optimizers_seeds"),
        lambda r: f"{typed(r)['optimizer']}, x {typed(r)['lr_scale']}",
        "First-order optimizers, each at its chosen rate, 6,000 images of Fashion-MNIST (seeds)",
    )
    for kind in ("function", "network"):
        ((folder, _),) = [
            run for run in runs_of(source / "saddles_in_high_dimensions") if typed(run[1])["task.of"] == kind
        ]
        drawn[f"saddles_{kind}"] = np.asarray(Image.open(folder / "saddles.png"))
    for name, image in drawn.items():
        save(image, target / f"lecture_{name}.png")


if __name__ == "__main__":
    main()
