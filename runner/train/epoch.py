"""The end of an epoch: validation, history row, curvature of the loss."""

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
    """Mixin of `TrainState` that ends its epochs."""

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
            progress.record_validation(row, self.ensemble.watched(self), self.selection, self.config["early_stopping"])
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
        """Evaluate the validation split with noise off. Of several processes the leading one evaluates for all."""
        if self.team is not None and not self.team.is_leader:
            return self.team.receive()
        members = self.as_members([self.ensemble.watched(self).eval()], self.val_split)
        measured = evaluate(members, self.val_split, self.normalize, self.autocast, self.batch_size, self.num_classes)
        self.train_mode()
        if self.team is not None:
            self.team.broadcast(measured)
        return measured

    def as_members(self, members: Sequence[torch.nn.Module], split: Split) -> Sequence[torch.nn.Module | Member]:
        """Return the networks as `evaluate` takes them for one pass; with cached features they start at the cut."""
        return members if self.features is None else self.features.members(members, split)

    def curvature(self) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue of the Hessian of the data loss.

        It is computed on a sample of the training images in full precision, with noise and augmentation off.
        """
        rows = sample_by_class(self.train_split.labels, CURVATURE_IMAGES, generator(self.config["seed"], "curvature"))
        piece = min(CURVATURE_IMAGES // 4, max(1, self.batch_size // self.accumulate))  # at most a micro-batch
        parts = [(self.normalize(x), y) for x, y in self.train_split.batches(rows.split(piece))]
        self.model.eval()

        def pieces() -> Iterator[Tensor]:
            for images, labels in parts:
                yield cross_entropy(self.model(images), labels) * (len(labels) / len(rows))

        extremes = hessian_ends([p for p in self.trained if p.requires_grad], pieces)
        self.train_mode()
        return extremes
