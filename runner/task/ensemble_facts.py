"""Facts about an ensemble for the result, TensorBoard and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.store.files import png, write_atomic
from runner.tracking.events import Tracker
from runner.tracking.figure import pixels

PICTURE = "ensemble.png"


def compare_members(accuracy: float, members: Sequence[float]) -> dict[str, Any]:
    """Return the facts of a weight average (one network): its accuracy beside those of the averaged members."""
    mean = math.fsum(members) / len(members)
    return {"members": list(members), "mean": mean, "gain": accuracy - mean, "disagreement": None, "curve": None}


def write_facts(facts: dict[str, Any], split: str, folder: Path, tracker: Tracker | None, step: int) -> None:
    """Write the scalars, and for several members a picture of accuracy over their number (ensemble.png)."""
    if tracker is not None:
        shown = {key: facts[key] for key in ("mean", "gain", "disagreement") if facts[key] is not None}
        tracker.scalars(step, {f"{split}/ensemble/{key}": value for key, value in shown.items()})
        for count, accuracy in enumerate(facts["curve"] or [], 1):
            tracker.scalars(count, {f"{split}/ensemble/accuracy_of_first_members": accuracy})
    if facts["curve"] is not None:
        image = draw(facts, split)
        write_atomic(folder / PICTURE, png(image), durable=False)
        if tracker is not None:
            tracker.picture(f"{split}/ensemble", step, image)


def draw(facts: dict[str, Any], split: str) -> np.ndarray:
    """Return a plot of the accuracies: each member, their mean, the first k together; uint8 [H, W, 3]."""
    from matplotlib.figure import Figure  # imported here because it takes a second
    from matplotlib.ticker import MaxNLocator

    counts = range(1, len(facts["curve"]) + 1)
    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(counts, facts["curve"], "o-", color="#0072b2", label="the first k members together")
    axes.plot(counts, facts["members"], "D", color="#d55e00", label="member k alone")
    axes.axhline(facts["mean"], color="#d55e00", linestyle="--", linewidth=1, label="mean of the members")
    axes.set_xlabel("k")
    axes.set_ylabel(f"{split} accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(
        f"{facts['curve'][-1]:.4f} together, {facts['gain']:+.4f} over the mean; two members differ on "
        f"{facts['disagreement']:.1%} of the images",
        fontsize=10,
    )
    axes.grid(color="#dfe3e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return pixels(figure)
