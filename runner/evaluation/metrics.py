"""Metrics of predictions on labeled images: loss, accuracy, calibration, and disagreement of passes and members."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from runner.core.schema import Average

BINS = 15  # of confidence (Guo et al. 2017, section 2)
TOP5_CLASSES = 10  # top-5 accuracy is computed above this number of classes


@dataclass(frozen=True)
class EvaluationResult:
    """Result of an evaluation on a split."""

    loss: float  # mean negative log-likelihood, nats
    accuracy: float
    confusion: Tensor  # int64 [K, K]: rows true, columns predicted

    @property
    def class_accuracy(self) -> list[float | None]:
        """Return the recall of each class; None for a class without images."""
        counts = zip(self.confusion.diag().tolist(), self.confusion.sum(1).tolist())
        return [correct / total if total else None for correct, total in counts]


@dataclass(frozen=True)
class DetailedResult(EvaluationResult):
    """Result of a final test: `EvaluationResult` and further metrics."""

    top5_accuracy: float | None  # None for ten classes or fewer
    calibration_error: float  # expected calibration error over 15 bins of confidence
    uncertainty: dict[str, float] | None  # disagreement of several passes or members
    ensemble: dict[str, Any] | None  # of several members: `EnsembleTally.read`
    mistakes: Tensor  # int64 [M], indices of misclassified images, highest loss first
    answers: Tensor  # int64 [M], their predicted classes
    confidence: Tensor  # [M], the probabilities of these

    def numbers(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the metrics that result.json holds for a split."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "top5_accuracy": self.top5_accuracy,
            "calibration_error": self.calibration_error,
            "class_accuracy": dict(zip(classes, self.class_accuracy)),
            "uncertainty": self.uncertainty,
        }


def mean_log(passes: Tensor) -> Tensor:
    """Return the log of the passes' mean probability, `[S, B, K]` to `[B, K]`."""
    # computed in log space, because probabilities would underflow: a loss of 1e29 stays 1e29, and NaN stays NaN
    return passes[0] if len(passes) == 1 else passes.logsumexp(0) - math.log(len(passes))


def ensembles(members: Tensor, average: Average) -> Tensor:
    """Return log-probabilities of the ensembles of the first 1, 2, ..., M members, `[M, B, K]` to `[M, B, K]`."""
    # `logits`: log-probabilities stand for logits, because their offsets cancel in the softmax
    if len(members) == 1:
        return members
    counts = torch.arange(1, len(members) + 1, device=members.device)[:, None, None]
    if average == "logits":
        return (members.cumsum(0) / counts).log_softmax(-1)
    return members.logcumsumexp(0) - counts.log()


class Tally:
    """Loss and confusion matrix of one or several networks, accumulated on the device without synchronizing."""

    def __init__(self, num_classes: int, device: torch.device, count: int = 1):
        self.shape = count, num_classes, num_classes
        self.confusion = torch.zeros(math.prod(self.shape), dtype=torch.int64, device=device)
        self.offsets = torch.arange(count, device=device)[:, None] * num_classes**2
        self.loss = torch.zeros(count, dtype=torch.float64, device="cpu" if device.type == "mps" else device)

    def add(self, labels: Tensor, log: Tensor) -> None:
        """Add a batch: labels `[B]`, log-probabilities `[N, B, K]`."""
        count, num_classes, _ = self.shape
        losses = -log.gather(2, labels.expand(count, -1)[:, :, None])[:, :, 0]
        self.loss += losses.contiguous().sum(1).to(self.loss.device)
        cells = labels * num_classes + log.argmax(2) + self.offsets
        self.confusion += torch.bincount(cells.flatten(), minlength=len(self.confusion))

    def read(self, images: int) -> list[tuple[float, float, Tensor]]:
        """Return mean loss, accuracy and confusion matrix of each network."""
        tables, losses = self.confusion.view(self.shape).cpu(), self.loss.tolist()
        return [(loss / images, table.diag().sum().item() / images, table) for loss, table in zip(losses, tables)]


class EnsembleTally:
    """Accuracy and disagreement of an ensemble's members, accumulated on the device."""

    def __init__(self, members: int, device: torch.device):
        self.single = torch.zeros(members, dtype=torch.int64, device=device)  # correct predictions of each member
        self.cumulative = torch.zeros_like(self.single)  # of the ensembles of the first 1, 2, ..., M members
        self.agreeing = torch.zeros((), dtype=torch.int64, device=device)  # pairs of members with equal predictions

    def add(self, labels: Tensor, single: Tensor, cumulative: Tensor) -> None:
        """Add a batch: labels `[B]`, log-probabilities `[M, B, K]` of each member and of the first 1, 2, ..., M."""
        predicted = single.argmax(-1)
        self.single += (predicted == labels).sum(1)
        self.cumulative += (cumulative.argmax(-1) == labels).sum(1)
        votes = one_hot(predicted, single.shape[-1]).sum(0)  # [B, K]
        self.agreeing += (votes * (votes - 1) // 2).sum()

    def read(self, images: int) -> dict[str, Any]:
        """Return the ensemble's metrics.

        members: accuracy of each member; mean: their mean; gain: the ensemble's accuracy less this mean.
        disagreement: share of images on which two members' predictions differ, averaged over pairs.
        curve: accuracy of the first 1, 2, ..., M members together.
        """
        members, curve = ([hits / images for hits in counts.tolist()] for counts in (self.single, self.cumulative))
        mean, pairs = math.fsum(members) / len(members), len(members) * (len(members) - 1) // 2
        return {
            "members": members,
            "mean": mean,
            "gain": curve[-1] - mean,
            "disagreement": 1 - self.agreeing.item() / (pairs * images) if pairs else None,
            "curve": curve,
        }


def spread(passes: Tensor, log: Tensor) -> Tensor:
    """Return how the passes `[S, B, K]` differ, `[2, B]`; `log`: their mean's log-probabilities `[B, K]`.

    Row 0: standard deviation of the predicted class's probability. Row 1: mutual information of prediction and pass,
    the entropy of the mean less the mean of the entropies, in nats (Gal 2016, section 3.3).
    """
    probabilities = passes.exp()
    deviation = probabilities.std(0, correction=0).gather(1, log.argmax(1)[:, None])[:, 0]
    entropy, mean = torch.special.entr(log.exp()).sum(-1), torch.special.entr(probabilities).sum(-1).mean(0)
    return torch.stack((deviation, (entropy - mean).clamp(min=0)))  # rounding may make it negative


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Return the expected calibration error (Guo et al. 2017, equation 3): |accuracy - confidence| of 15 bins of
    confidence (0, 1/15], (1/15, 2/15], ..., weighted by the bin's images. Both arguments `[N]` float64."""
    # because float32 sums drift by percents within 60,000 images
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, confidence - correct)
    return gaps.abs().sum().item() / len(confidence)


def average_by_correctness(differences: list[Tensor], correct: Tensor) -> dict[str, float]:
    """Return means of `spread`'s rows over all images, correct predictions and wrong ones; empty sets are left out."""
    masks = {"": torch.ones_like(correct), "_right": correct, "_wrong": 1 - correct}
    return {
        f"{name}{suffix}": ((values * mask).sum() / mask.sum()).item()
        for name, values in zip(("spread", "mutual_information"), differences, strict=True)
        for suffix, mask in masks.items()
        if mask.any()
    }
