"""What a result says of an ensemble, and how it is shown."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.store.files import png, write_atomic
from runner.tracking.events import Tracker
from runner.tracking.figure import pixels

PICTURE = "ensemble.png"


def compared(accuracy: float, members: Sequence[float]) -> dict[str, Any]:
    """An average of weights, one network, beside the accuracies of those that went into it."""
    mean = math.fsum(members) / len(members)
    return {"members": list(members), "mean": mean, "gain": accuracy - mean, "disagreement": None, "curve": None}


def tell(facts: dict[str, Any], split: str, folder: Path, tracker: Tracker | None, step: int) -> None:
    """Scalars, and a picture of accuracy over the number of members (ensemble.png), where there are several."""
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
    """Accuracy of each member, their mean, and of the first k together, uint8 [H, W, 3]."""
    from matplotlib.figure import Figure  # a second that other runs need not pay
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
