"""Draws docs/pictures/lecture_*.png of the experiments on regularization, augmentation and averaging at test time.

python scripts/draw_lecture_stacks.py outputs/lecture docs/pictures
"""

import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from draw_lecture import Runs, dots, figure, finish, runs_of, save
from matplotlib.figure import Figure

from runner.build.load import load
from runner.report.surface_pictures import style
from runner.task.resources import Resources

IMAGES = 2000  # of the test split, for correlations


def words(result: dict[str, Any]) -> str:
    """What was swept but for the seed, in short: `[dropout], p=0.5`."""
    kept = {key: value for key, value in result["swept"].items() if key != "seed"}
    return ", ".join(short(key, value) for key, value in kept.items())


def short(key: str, value: Any) -> str:
    """A list as it is typed, another value under the last part of its key."""
    if isinstance(value, list):
        return "[" + ", ".join(value) + "]"
    return f"{key.rpartition('.')[2]}={value}"


def means(runs: Runs, key: str, metric: str = "test_accuracy") -> dict[Any, tuple[float, float]]:
    """Mean and standard deviation of a metric over the seeds, by the value of a swept key."""
    found: dict[Any, list[float]] = {}
    for _, result in runs:
        if result["status"] == "done":
            found.setdefault(result["swept"].get(key), []).append(result[metric])
    return {value: (statistics.fmean(all), statistics.stdev(all)) for value, all in found.items()}


def line(axes: Any, number: int, points: dict[float, tuple[float, float]], name: str) -> None:
    """Means with bars of one standard deviation."""
    x = sorted(points)
    axes.errorbar(x, [points[i][0] for i in x], [points[i][1] for i in x], capsize=4, label=name, **style(number))


def as_ensemble(runs: Runs) -> np.ndarray:
    """Accuracy and loss over the number of masks, and the single pass at test time."""

    def draw(page: Figure) -> None:
        for axes, metric, title in zip(page.subplots(1, 2), ("test_accuracy", "test_loss"), ("accuracy", "loss")):
            points = means(runs, "evaluation.passes", metric)
            mean, spread = points.pop(None)
            line(axes, 0, points, "mean of so many masks")
            axes.axhline(mean, color="#d55e00", linewidth=2.5, label="one pass, noise off")
            axes.axhspan(mean - spread, mean + spread, color="#d55e00", alpha=0.12)
            axes.set(xscale="log", xlabel="masks", ylabel=f"test {title}")
            finish(axes)

    return figure(draw)


def correlations(runs: Runs) -> dict[float, tuple[float, float]]:
    """Mean absolute correlation between the features of the first hidden layer, over the test images; by rate."""
    builder, found = Resources(), {}
    for folder, result in runs:
        loaded = load(folder)
        test = builder.splits(loaded.config).test
        images, _ = next(test.batches([torch.arange(min(IMAGES, len(test)))]))
        features: list[torch.Tensor] = []
        network = loaded.networks[0]
        network.model.relu1.register_forward_hook(lambda module, inputs, output, kept=features: kept.append(output))
        with torch.no_grad():
            network(images)
        alive = features[0][:, features[0].std(0) > 1e-6]
        matrix = torch.corrcoef(alive.T)
        others = matrix[~torch.eye(len(matrix), dtype=torch.bool)]
        found.setdefault(result["swept"]["regularization.dropout.p"], []).append(others.abs().mean().item())
    return {p: (statistics.fmean(all), statistics.stdev(all)) for p, all in found.items()}


def rate(runs: Runs) -> np.ndarray:
    """Test accuracy, and the correlation of features, over the rate of dropout."""

    def draw(page: Figure) -> None:
        left, right = page.subplots(1, 2)
        line(left, 0, means(runs, "regularization.dropout.p"), "mean and deviation of 3 seeds")
        left.set(xlabel="p", ylabel="test accuracy", title="How much dropout")
        line(right, 1, correlations(runs), "first hidden layer")
        right.set(xlabel="p", ylabel="mean |correlation| of two features", title="Co-adaptation")
        finish(left)
        finish(right)

    return figure(draw)


def batchnorm(runs: Runs) -> np.ndarray:
    """Test accuracy over the rate, with and without batch norm; a diverged run counts as guessing."""

    def draw(page: Figure) -> None:
        axes = page.subplots()
        for number, stack in enumerate(([], ["batchnorm"])):
            found: dict[float, list[float]] = {}
            for _, result in runs:
                if result["swept"]["regularization"] == stack:
                    value = result["test_accuracy"] if result["status"] == "done" else 0.1
                    found.setdefault(result["swept"]["optimizer.lr"], []).append(value)
            points = {x: (statistics.fmean(all), statistics.stdev(all)) for x, all in found.items()}
            line(axes, number, points, f"[{', '.join(stack)}]")
        axes.set(xscale="log", xlabel="learning rate of SGD", ylabel="test accuracy", title="5 epochs on 2,000 images")
        finish(axes)

    return figure(draw)


def weights(runs: Runs) -> np.ndarray:
    """Histograms of all weights of seed 0."""

    def draw(page: Figure) -> None:
        axes = page.subplots()
        for number, (folder, result) in enumerate(run for run in runs if run[1]["swept"]["seed"] == 0):
            network = load(folder).networks[0]
            values = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1]).abs()
            edges = np.logspace(-6, 0, 61)
            counts, _ = np.histogram(values.clamp_min(1e-6).numpy(), edges)
            axes.stairs(counts / len(values), edges, linewidth=2.5, color=style(number)["color"], label=words(result))
        axes.set(xscale="log", xlabel="size of a weight", ylabel="share of the weights", title="L1 makes weights small")
        finish(axes)

    return figure(draw)


def subsets(runs: Runs) -> np.ndarray:
    """What an item adds to a stack without it: one dot for each of the 16 stacks, mean of the seeds."""

    def draw(page: Figure) -> None:
        found: dict[frozenset[str], list[float]] = {}
        for _, result in runs:
            found.setdefault(frozenset(result["swept"]["regularization"]), []).append(result["test_accuracy"])
        mean = {stack: statistics.fmean(all) for stack, all in found.items()}
        items = sorted(set.union(*map(set, mean)))
        axes = page.subplots()
        for y, item in enumerate(items):
            gains = [mean[stack] - mean[stack - {item}] for stack in mean if item in stack]
            axes.plot(gains, [y] * len(gains), "o", alpha=0.6, markersize=9, color="#0072b2")
            axes.plot([statistics.fmean(gains)] * 2, [y - 0.3, y + 0.3], color="#000000", linewidth=2.5)
        axes.axvline(0, color="#868e96")
        axes.set_yticks(range(len(items)), items)
        axes.set(xlabel="test accuracy with the item less without it: a dot a stack of the others, a bar at the mean")
        axes.grid(color="#dfe3e8", linewidth=0.8)

    return figure(draw)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    own = {
        "dropout_as_ensemble": as_ensemble,
        "dropout_rate": rate,
        "batchnorm": batchnorm,
        "loss_terms": weights,
        "regularization_stack": subsets,
    }
    plain = {
        "dropout_test_time": "Dropout at test time, 6,000 images of Fashion-MNIST",
        "batch_noise": "Batches of 256, normalised in pieces; 2,000 images",
        "augmentation": "Augmentations on 1,000 images of Fashion-MNIST",
        "mixing": "Soft targets and mixed images, 2,000 images",
        "dropconnect_vs_dropout": "Activations or weights, 3,000 images",
        "fractional_max_pool": "Pooling regions, 2,000 images",
        "stochastic_depth": "ResNet-20, 1,000 images",
    }
    for name, draw in own.items():
        save(draw(runs_of(source / name)), target / f"lecture_{name}.png")
    for name, title in plain.items():
        save(dots(runs_of(source / name), words, f"{title} (seeds)"), target / f"lecture_{name}.png")


if __name__ == "__main__":
    main()
