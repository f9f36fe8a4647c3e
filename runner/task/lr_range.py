"""`task=lr_range`: the learning-rate range test of Smith 2017 (arXiv 1506.01186, section 3.3), exponentially spaced."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.schema import Below1, Positive, Rate
from runner.core.seeds import generator
from runner.core.timeline import Timeline
from runner.execution.compile import compile_if_configured
from runner.execution.eager import EagerProgram
from runner.schedule.base import Schedule
from runner.store.files import csv_text, png, write_atomic
from runner.task.base import Task, tracking
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.tracking.figure import pixels
from runner.train.program import Objective
from runner.train.state import TrainState

log = logging.getLogger(__name__)

COLUMNS = ("step", "lr", "loss", "smoothed")
EXPLODED = 4.0  # times the lowest smoothed loss so far: higher rates tell nothing more
MARGIN = 10.0  # the suggestion is the rate of the lowest loss divided by this


class RangeSchedule(Schedule):
    """Schedule from rate `low` to `high`, by the same factor each step; `base` is the optimizer's rate."""

    def __init__(self, timeline: Timeline, low: float, high: float, base: float):
        super().__init__(timeline)
        self.low, self.high, self.base = low, high, base

    def decay(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.timeline.steps - 1)) / self.base


class LrRange(Task):
    """Range test of `optimizer.lr` with the chosen model, data, optimizer and stacks.

    min, max: the first and the last rate.
    steps: mini-batches of the sweep; it ends early where the smoothed loss passes `EXPLODED` times its lowest.
    smoothing: share of the old value in the running mean of the loss.
    """

    ignores: ClassVar[frozenset[str]] = frozenset(
        [
            "surface",
            "schedule",
            "epochs",
            "evaluation",
            "ensemble",
            "early_stopping",
            "checkpoint",
            "probe",
            "optimizer.lr",
            "lr_scale",
        ]
    )
    columns: ClassVar[Mapping[str, str]] = {
        "suggestion": "suggestion_typed",
        "lowest loss at": "lowest_typed",
        "steps": "steps",
    }

    def __init__(self, min: Rate = 1e-6, max: Rate = 10.0, steps: Positive = 200, smoothing: Below1 = 0.8):
        self.low, self.high, self.steps, self.smoothing = min, max, steps, smoothing
        if max <= min:
            raise ConfigError(f"task.max={max}: must be above task.min={min}")
        if steps < 20:
            raise ConfigError(f"task.steps={steps}: must be at least 20, or there is no curve to read")

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Return the facts about a config; raises `ConfigError` for an optimizer that uses full batches."""
        if config["optimizer"]["full_batch"]:
            raise ConfigError(
                "optimizer.full_batch=true: task=lr_range sweeps the rate over mini-batches, and a line search finds "
                "its own step; choose a mini-batch optimizer"
            )
        return replace(resources.preflight(config), steps=self.steps)

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Sweep the rate; write range.csv and range.png, and yield a result with the suggestion."""
        with tracking(job) as tracker:
            run = self.run(job.config, resources, device)
            if tracker is not None:
                shown = {group: choice for group, choice in job.choices.items() if isinstance(choice, str)}
                tracker.hparams(shown | {"seed": job.config["seed"], "batch_size": job.config["batch_size"]})
            lrs, losses = self.losses(run, listener)
            smoothed = smooth(losses, self.smoothing)
            suggestion = suggest(lrs, smoothed)
            rows = [dict(zip(COLUMNS, row)) for row in zip(range(len(lrs)), lrs, losses, smoothed)]
            write_atomic(job.folder / "range.csv", csv_text(rows, COLUMNS), durable=False)
            optimizer = job.choices.get("optimizer", "optimizer")
            image = picture(lrs, losses, smoothed, suggestion, f"{optimizer} on {job.choices.get('data', 'data')}")
            write_atomic(job.folder / "range.png", png(image), durable=False)
            if tracker is not None:
                for row in rows:
                    tracker.scalars(row["step"], {f"lr_range/{key}": row[key] for key in COLUMNS[1:]})
                tracker.picture("lr_range", rows[-1]["step"], image)
        log.info("suggestion: %s (loss lowest at %s)", suggestion["suggestion_typed"], suggestion["lowest_typed"])
        yield suggestion | {
            "status": "done",
            "steps": len(lrs),
            "seconds": round(run.seconds(), 3),
            "parameters": sum(p.numel() for p in run.model.parameters()),
        }

    def run(self, config: dict[str, Any], resources: Resources, device: torch.device) -> TrainState:
        """Return the train state of this config, with the sweep as schedule and without validation."""
        torch.manual_seed(generator(config["seed"], "layers of libraries").initial_seed())
        noise = generator(config["seed"], "noise", device)
        splits = resources.splits(config, device)
        parts = resources.parts(config, splits, device, noise)
        length = Timeline(self.steps, parts.timeline.steps_per_epoch)
        base = config["optimizer"]["lr"] * config["lr_scale"]
        sweep = RangeSchedule(length, self.low, self.high, base)
        parts = replace(parts, timeline=length, schedule=sweep, splits=replace(splits, val=None))
        return compile_if_configured(TrainState(config, parts, device, noise))

    def losses(self, run: TrainState, listener: Listener) -> tuple[list[float], list[float]]:
        """Return `(rates, losses)` of the mini-batches up to divergence; each loss precedes the step with its rate."""
        lrs: list[float] = []
        losses: list[float] = []
        base = run.schedule.base
        program = EagerProgram()
        run.train_mode()
        while not run.ended:
            step, batch = run.progress.step, run.next_batch()
            (loss,) = program.gradients([run], [batch])
            value = float(loss)
            if not math.isfinite(value):
                break
            lrs.append(base * run.schedule(step))
            losses.append(value)
            smoothed = smooth(losses, self.smoothing)
            if smoothed[-1] > EXPLODED * min(smoothed):
                break
            run.step(loss, Objective(run, batch, loss, program))
            listener.progress(step + 1, run.steps, {"train_loss": value})
        if len(losses) < 2:
            raise RuntimeError("the loss was not finite from the first steps on: choose a lower task.min")
        return lrs, losses


def smooth(losses: Sequence[float], keep: float) -> list[float]:
    """Return the running mean of the losses, bias-corrected as in Adam (Kingma & Ba 2015, section 3)."""
    mean, smoothed = 0.0, []
    for i, loss in enumerate(losses, 1):
        mean = keep * mean + (1 - keep) * loss
        smoothed.append(mean / (1 - keep**i))
    return smoothed


def suggest(lrs: Sequence[float], smoothed: Sequence[float]) -> dict[str, Any]:
    """Return the suggested learning rate and the marks of the curve.

    `suggestion`: a tenth of the rate with the lowest smoothed loss, rounded to two digits. This is the rule `minimum`
    of fastai's `lr_find` (Gugger 2018, "How do you find a good learning rate"): at the minimum the rate is nearly too
    large. `steepest`: the rate at which the loss falls fastest over the logarithm of the rate. A tenth of the sweep at
    each end is left out.
    """
    lowest = lrs[int(np.argmin(smoothed))]
    suggestion = float(f"{lowest / MARGIN:.1e}")
    edge = len(lrs) // 10
    slopes = np.gradient(np.asarray(smoothed), np.log(lrs))
    steepest = lrs[edge + int(np.argmin(slopes[edge : len(lrs) - edge]))]
    return {
        "suggestion": suggestion,
        "suggestion_typed": f"optimizer.lr={suggestion:.1e}",
        "lowest": lowest,
        "lowest_typed": f"{lowest:.1e}",
        "steepest": steepest,
    }


def picture(
    lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], rates: Mapping[str, Any], title: str
) -> np.ndarray:
    """Return a plot of loss over rate, with lowest rate and suggestion marked; uint8 [H, W, 3]."""
    # imported here because matplotlib takes a second
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 14}):
        figure = Figure(figsize=(10, 6), dpi=100)
        axes = figure.add_axes((0.1, 0.12, 0.87, 0.79))
        axes.plot(lrs, losses, color="#9aa4af", linewidth=1, label="each mini-batch")
        axes.plot(lrs, smoothed, color="#0072b2", linewidth=2.6, label="smoothed")
        axes.axvline(
            rates["lowest"], color="#d55e00", linestyle="--", linewidth=2, label=f"lowest: {rates['lowest']:.1e}"
        )
        axes.axvline(rates["suggestion"], color="#009e73", linewidth=2, label=f"suggestion: {rates['suggestion']:.1e}")
        axes.set_xscale("log")
        low, high = min(smoothed), max(smoothed[: max(1, len(smoothed) // 2)])
        axes.set_ylim(min(low, min(losses)) - 0.05 * (high - low), high + 0.6 * (high - low))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.set_title(f"Learning-rate range test: {title}")
        axes.grid(color="#dfe3e8", linewidth=0.8)
        axes.legend(loc="lower left")
        return pixels(figure)
