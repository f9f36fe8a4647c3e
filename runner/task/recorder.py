"""Recorder: writes metrics.csv, the TensorBoard event file and pictures, and reports progress."""

import logging
from typing import Any

import numpy as np
import torch

from runner.core.listener import Listener
from runner.data.splits import Splits
from runner.evaluation.metrics import DetailedResult
from runner.store.files import CsvFile, png, write_atomic, yaml_text
from runner.task.augmentation_grid import Preview
from runner.task.job import Job
from runner.tracking.events import Tracker
from runner.tracking.pictures import batch_grid, confusion_matrix
from runner.tracking.schedule_picture import draw
from runner.train.state import TrainState

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
MISTAKES = "mistakes.png"
PREVIEW = 4, 5, 84  # of the augmentation in TensorBoard: images, draws of each, approximate pixels of a side
COLUMNS = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")


class Recorder:
    """Writes the records of a run and reports progress to its listener.

    rows: of the epochs that are done. resumed: the run continues in its own folder.
    """

    def __init__(
        self, job: Job, run: TrainState, splits: Splits, listener: Listener, rows: list[dict[str, Any]], resumed: bool
    ):
        self.job, self.config, self.run, self.splits, self.listener = job, job.config, run, splits, listener
        self._metrics = CsvFile(job.folder / METRICS, COLUMNS, rows)
        self.tracker: Tracker | None = None
        if self.config["log"]["tensorboard"]:
            self.tracker = Tracker(job.folder, purge_step=run.progress.step + 1 if resumed else None)
            self._write_start(rows, resumed)

    def close(self, status: str | None) -> None:
        """Close the files. status: of the run; None if it continues later."""
        self._metrics.close()
        if self.tracker is not None:
            self.tracker.close(status)

    def flush(self) -> None:
        """Write buffered events to the event file."""
        if self.tracker is not None:
            self.tracker.flush()

    def _write_start(self, rows: list[dict[str, Any]], resumed: bool) -> None:
        """Write hparams, config, schedule, the first batch as the network gets it, and an augmentation preview."""
        groups = ("data", "model", "optimizer", "schedule", "regularization", "augmentation")
        shown = {group: _word(self.job.choices[group]) for group in groups if self.job.choices.get(group)}
        shown |= {"optimizer.lr": self.config["optimizer"]["lr"] * self.config["lr_scale"]}
        shown |= {key: self.config[key] for key in ("seed", "epochs", "batch_size")}
        self.tracker.hparams(shown | {key: _word(value) for key, value in self.job.swept.items()})
        if resumed:
            return
        for row in rows:  # of the run that trained this network
            self.tracker.scalars(row["step"], _scalars(row))
        self.tracker.text("config", "    " + yaml_text(self.config).replace("\n", "\n    "))
        if self.run.schedule.foreseen:
            self.tracker.picture("schedule", 0, draw(self.run.schedule, self.run.schedule.timeline, self.run.rates[0]))
        if count := min(self.config["log"]["images"], self.config["batch_size"]):
            batch = self.run.preview(count)
            labels = [describe(target, self.splits.classes) for target in batch.targets.cpu()]
            images = self.run.normalize.undo(batch.images).cpu().numpy()
            self.tracker.picture("train/first_batch", 0, batch_grid(images, labels))
        if count and self.run.parts.pipeline:
            preview = Preview(self.splits, self.run.normalize, self.config["seed"], *PREVIEW)
            self.tracker.picture(
                "train/augmentation", 0, preview.grid(self.run.parts.pipeline, self.config["augmentation"])
            )
        self.tracker.flush()

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Record the scalars of the steps up to this one."""
        if self.tracker is not None:
            self.tracker.scalars(step, scalars)
        shown = {"train_loss": scalars["train/loss"]} if "train/loss" in scalars else {}
        self.listener.progress(step, self.run.steps, shown)

    def epoch(self, row: dict[str, Any]) -> None:
        """Record the row of an epoch."""
        self._metrics.add(row)
        log.info("%s", " ".join(f"{key}={value:.5g}" for key, value in row.items() if value is not None))
        if self.tracker is not None:
            self.tracker.scalars(row["step"], _scalars(row))
        self.listener.progress(row["step"], self.run.steps, {k: v for k, v in row.items() if v is not None})

    def tested(self, result: dict[str, Any], examined: DetailedResult) -> None:
        """Record the test: its numbers, the confusion matrix, the worst mistakes."""
        step, tracker = self.run.progress.step, self.tracker
        if tracker is not None:
            keys = ("accuracy", "loss", "top5_accuracy", "calibration_error")
            scalars = {f"test/{key}": result[f"test_{key}"] for key in keys if result[f"test_{key}"] is not None}
            scalars |= {f"test/uncertainty/{key}": value for key, value in (result["test_uncertainty"] or {}).items()}
            tracker.scalars(step, scalars)
            picture = confusion_matrix(examined.confusion.numpy(), list(self.splits.classes))
            tracker.picture("test/confusion", step, picture)
        if len(examined.mistakes):
            image = png(self._mistakes(examined))
            write_atomic(self.job.folder / MISTAKES, image, durable=False)
            if tracker is not None:
                tracker.picture("test/worst_mistakes", step, image)

    def _mistakes(self, examined: DetailedResult) -> np.ndarray:
        """Return a grid of misclassified test images, largest loss first; `cat / dog .98` is a cat predicted as dog."""
        split, classes = self.splits.test, self.splits.classes
        images, labels = next(split.batches(examined.mistakes[None].to(split.labels.device)))
        predictions = zip(labels.tolist(), examined.answers.tolist(), examined.confidence.tolist())
        words = [f"{classes[label]} / {classes[pred]} {_share(prob)}" for label, pred, prob in predictions]
        return batch_grid(self.run.normalize.undo(self.run.normalize(images)).cpu().numpy(), words)


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    tags = {
        "train_accuracy": "train/accuracy",
        "val_loss": "val/loss",
        "val_accuracy": "val/accuracy",
        "epoch": "epoch",
    }
    return {tag: row[key] for key, tag in tags.items() if row[key] is not None}


def _word(value: Any) -> Any:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list | tuple) else value


def describe(target: torch.Tensor, classes: tuple[str, ...]) -> str:
    """Return a target as text: the class, or the two largest shares (`cat .7 / dog .3`)."""
    if target.ndim == 0:
        return classes[int(target)]
    share, index = target.topk(2)
    return " / ".join(f"{classes[i]} {_share(s)}" for s, i in zip(share.tolist(), index.tolist()) if s >= 0.005)


def _share(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")


def mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of the members' rows of one epoch."""
    if len(rows) == 1:
        return rows[0]
    means = {key: [row[key] for row in rows] for key in COLUMNS}
    row = {key: None if None in values else sum(values) / len(values) for key, values in means.items()}
    return row | {"epoch": rows[0]["epoch"], "step": rows[0]["step"], "seconds": max(means["seconds"])}
