"""Draws docs/pictures/lecture_*.png of the experiments on transfer learning.

python scripts/draw_lecture_transfer.py outputs/lecture docs/pictures
"""

import statistics
import sys
from pathlib import Path

import numpy as np
from draw_lecture import Runs, figure, finish, runs_of, save
from draw_lecture_stacks import line, means
from matplotlib.figure import Figure

PRESETS = ("last_layer", "last_stages", "full", "scratch")


def heat(runs: Runs, title: str) -> np.ndarray:
    """Mean test accuracy and its deviation over seeds: what trains down, images of a class across."""

    def draw(page: Figure) -> None:
        found: dict[tuple[str, int], list[float]] = {}
        for _, result in runs:
            swept = result["swept"]
            depth = swept.get("transfer.freeze_depth")
            what = swept["transfer"] if depth is None else f"freeze_depth={depth}"
            found.setdefault((what, swept["data.per_class"]), []).append(result["test_accuracy"])
        kinds = list(dict.fromkeys(what for what, _ in found))
        rows = sorted(kinds, key=lambda what: PRESETS.index(what) if what in PRESETS else -1)
        columns = sorted({count for _, count in found})
        mean = np.array([[statistics.fmean(found[row, column]) for column in columns] for row in rows])
        axes = page.subplots()
        shown = axes.imshow(mean, cmap="viridis", aspect="auto")
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                values = found[row, column]
                dark = mean[y, x] < (mean.min() + mean.max()) / 2
                words = f"{mean[y, x]:.3f} ± {statistics.stdev(values):.3f}"
                axes.text(x, y, words, ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlabel="training images of a class", title=title)
        page.colorbar(shown, ax=axes, label="test accuracy")

    return figure(draw)


def rate(runs: Runs) -> np.ndarray:
    """Test accuracy over the rate of what is pre-trained."""

    def draw(page: Figure) -> None:
        axes = page.subplots()
        line(axes, 0, means(runs, "transfer.pretrained_lr_scale"), "mean and deviation of 3 seeds")
        axes.axhline(0.2, color="#868e96", linestyle="--", label="guessing")
        words = "rate of the pre-trained stages, as a share of the head's 0.001 (Adam)"
        axes.set(xscale="log", xlabel=words, ylabel="test accuracy", title="Full fine-tuning on 180 photos")
        finish(axes)

    return figure(draw)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    small = heat(runs_of(source / "transfer_small_data"), "Photos of flowers, weights from ImageNet")
    halves = heat(runs_of(source / "pretrain_then_transfer"), "Five classes of Fashion-MNIST after the other five")
    save(small, target / "lecture_transfer_small_data.png")
    save(halves, target / "lecture_pretrain_then_transfer.png")
    save(rate(runs_of(source / "transfer_rate")), target / "lecture_transfer_rate.png")


if __name__ == "__main__":
    main()
