"""The end of a run's epoch: validation, what is kept of it, the curvature of the loss."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.core.seeds import generator
from runner.data.normalize import sample_by_class
from runner.data.splits import Split
from runner.evaluation.base import Member
from runner.evaluation.evaluate import evaluate
from runner.evaluation.metrics import EvaluationResult
from runner.train.attributes import Attributes
from runner.train.probes import hessian_ends
from runner.train.progress import Diverged, Row

CURVATURE_IMAGES = 1024


class Epochs(Attributes):
    """The part of a run that ends its epochs."""

    def _end_epoch(self, measured: EvaluationResult | None) -> None:
        progress, count = self.progress, self.steps_per_epoch
        row: Row = {
            "epoch": progress.step // count,
            "step": progress.step,
            "train_loss": progress.loss_sum / count,
            "train_accuracy": progress.hits / (count * self.batch_size),
            "val_loss": None,
            "val_accuracy": None,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        progress.loss_sum = progress.hits = 0.0
        self.rewind(losses=False)
        if self.val_split is not None:
            measured = measured or self.measure()
            row |= {"val_loss": measured.loss, "val_accuracy": measured.accuracy}
            if not math.isfinite(measured.loss):
                raise Diverged(progress.step, f"the validation loss was {measured.loss} after step {progress.step}")
            progress.last_good |= {"val_loss": measured.loss, "val_accuracy": measured.accuracy}
            progress.judge(row, self.ensemble.watched(self), self.selection, self.config["early_stopping"])
        if self.curvature_every and row["epoch"] % self.curvature_every == 0:
            smallest, largest = self.curvature()
            self.on_log(progress.step, {"curvature/smallest": smallest, "curvature/largest": largest})
        row["seconds"] = round(self.seconds(), 3)
        progress.history.append(row)
        self.schedule.observe(row)
        self.ensemble.after_epoch(self, row)
        self.transfer.thaw(self.model, row["epoch"])
        self.train_mode()
        self.on_epoch(row)

    def measure(self) -> EvaluationResult:
        """The validation split, noise off; by the first of several processes."""
        if self.team is not None and not self.team.leads:
            return self.team.hear()
        members = self.seen([self.ensemble.watched(self).eval()], self.val_split)
        measured = evaluate(members, self.val_split, self.normalize, self.autocast, self.batch_size, self.num_classes)
        self.train_mode()
        if self.team is not None:
            self.team.tell(measured)
        return measured

    def seen(self, members: Sequence[torch.nn.Module], split: Split) -> Sequence[torch.nn.Module | Member]:
        """Networks as `evaluate` asks them for one pass: where the cache serves, from the cut on."""
        return members if self.features is None else self.features.members(members, split)

    def curvature(self) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue of the Hessian of the data loss on a sample of the training
        images, in full precision, noise and augmentation off."""
        rows = sample_by_class(self.train_split.labels, CURVATURE_IMAGES, generator(self.config["seed"], "curvature"))
        piece = min(CURVATURE_IMAGES // 4, max(1, self.batch_size // self.accumulate))  # as many as a step has
        parts = [(self.normalize(x), y) for x, y in self.train_split.batches(rows.split(piece))]
        self.model.eval()

        def pieces() -> Iterator[Tensor]:
            for images, labels in parts:
                yield cross_entropy(self.model(images), labels) * (len(labels) / len(rows))

        found = hessian_ends([p for p in self.trained if p.requires_grad], pieces)
        self.train_mode()
        return found
