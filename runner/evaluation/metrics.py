"""What is measured of answers to labelled images: loss, accuracy, calibration, and how passes and members differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from runner.core.schema import Average

BINS = 15  # of confidence (Guo et al. 2017, section 2)
TOP5_CLASSES = 10  # above so many classes the five best answers are counted too


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found."""

    loss: float  # mean negative log-likelihood, nats
    accuracy: float
    confusion: Tensor  # int64 [K, K]: rows true, columns predicted

    @property
    def class_accuracy(self) -> list[float | None]:
        """The share of each class that was recognised; None for a class without images."""
        counts = zip(self.confusion.diag().tolist(), self.confusion.sum(1).tolist())
        return [right / all if all else None for right, all in counts]


@dataclass(frozen=True)
class Examined(EvaluationResult):
    """What a closer look found as well."""

    top5_accuracy: float | None  # where there are more than ten classes
    calibration_error: float  # expected: mean distance of confidence and accuracy, over 15 bins of confidence
    uncertainty: dict[str, float] | None  # how several passes or members differ
    ensemble: dict[str, Any] | None  # of several members: `EnsembleTally.read`
    mistakes: Tensor  # int64 [M], numbers of images answered wrongly, the worst loss first
    answers: Tensor  # int64 [M], what was answered
    confidence: Tensor  # [M], with which probability

    def numbers(self, classes: Sequence[str]) -> dict[str, Any]:
        """What a result says of a split."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "top5_accuracy": self.top5_accuracy,
            "calibration_error": self.calibration_error,
            "class_accuracy": dict(zip(classes, self.class_accuracy)),
            "uncertainty": self.uncertainty,
        }


def mean_log(passes: Tensor) -> Tensor:
    """The logarithm of the passes' mean probability, `[S, B, K]` to `[B, K]`.

    Averaged as probabilities, but never out of the logarithm: a loss of 1e29 stays one, and a NaN a NaN.
    """
    return passes[0] if len(passes) == 1 else passes.logsumexp(0) - math.log(len(passes))


def ensembles(members: Tensor, average: Average) -> Tensor:
    """Logarithms of probabilities of the first, the first two, ... of the members `[M, B, K]`.

    The mean of their probabilities; or of their logits: the softmax of mean logits is the renormalised geometric mean
    of the probabilities, so that it does not matter that what is averaged here is normalised already.
    """
    if len(members) == 1:
        return members
    counts = torch.arange(1, len(members) + 1, device=members.device)[:, None, None]
    if average == "logits":
        return (members.cumsum(0) / counts).log_softmax(-1)
    return members.logcumsumexp(0) - counts.log()


class Tally:
    """Loss and answers of one or several, added up on the device without waiting for it."""

    def __init__(self, num_classes: int, device: torch.device, count: int = 1):
        self.shape = count, num_classes, num_classes
        self.confusion = torch.zeros(math.prod(self.shape), dtype=torch.int64, device=device)
        self.places = torch.arange(count, device=device)[:, None] * num_classes**2
        self.loss = torch.zeros(count, dtype=torch.float64, device="cpu" if device.type == "mps" else device)

    def add(self, labels: Tensor, log: Tensor) -> None:
        """A batch: labels `[B]`, logarithms of probabilities `[N, B, K]`."""
        count, num_classes, _ = self.shape
        losses = -log.gather(2, labels.expand(count, -1)[:, :, None])[:, :, 0]
        self.loss += losses.contiguous().sum(1).to(self.loss.device)
        cells = labels * num_classes + log.argmax(2) + self.places
        self.confusion += torch.bincount(cells.flatten(), minlength=len(self.confusion))

    def read(self, images: int) -> list[tuple[float, float, Tensor]]:
        """Mean loss, accuracy, confusion matrix of each."""
        tables, losses = self.confusion.view(self.shape).cpu(), self.loss.tolist()
        return [(loss / images, table.diag().sum().item() / images, table) for loss, table in zip(losses, tables)]


class EnsembleTally:
    """What the members of an ensemble do, alone and together, added up on the device."""

    def __init__(self, members: int, device: torch.device):
        self.alone = torch.zeros(members, dtype=torch.int64, device=device)  # right answers
        self.grown = torch.zeros_like(self.alone)
        self.alike = torch.zeros((), dtype=torch.int64, device=device)  # pairs of members with the same answer

    def add(self, labels: Tensor, alone: Tensor, grown: Tensor) -> None:
        """A batch: labels `[B]`, the members' logarithms of probabilities `[M, B, K]`, those of the first 1, 2, ..."""
        answers = alone.argmax(-1)
        self.alone += (answers == labels).sum(1)
        self.grown += (grown.argmax(-1) == labels).sum(1)
        votes = one_hot(answers, alone.shape[-1]).sum(0)  # [B, K]
        self.alike += (votes * (votes - 1) // 2).sum()

    def read(self, images: int) -> dict[str, Any]:
        """Accuracy of each member, their mean; the ensemble's gain over it; the mean share of images to which two
        members give different answers; the accuracy of the first 1, 2, ... members together."""
        members, curve = ([right / images for right in counts.tolist()] for counts in (self.alone, self.grown))
        mean, pairs = math.fsum(members) / len(members), len(members) * (len(members) - 1) // 2
        return {
            "members": members,
            "mean": mean,
            "gain": curve[-1] - mean,
            "disagreement": 1 - self.alike.item() / (pairs * images) if pairs else None,
            "curve": curve,
        }


def spread(passes: Tensor, log: Tensor) -> Tensor:
    """How the passes `[S, B, K]` differ, `[2, B]`: the standard deviation of the answer's probability, and the mutual
    information of answer and pass (Gal 2016, section 3.3): entropy of the mean less mean of the entropies, in nats."""
    chances = passes.exp()
    deviation = chances.std(0, correction=0).gather(1, log.argmax(1)[:, None])[:, 0]
    entropy, mean = torch.special.entr(log.exp()).sum(-1), torch.special.entr(chances).sum(-1).mean(0)
    return torch.stack((deviation, (entropy - mean).clamp(min=0)))  # rounding may take it below


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Guo et al. 2017, equation 3: |accuracy - confidence| of each of 15 bins of confidence (0, 1/15], (1/15, 2/15],
    ..., weighted by the bin's images. Both `[N]` float64: sums of float32 drift by percents within 60,000 images."""
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, confidence - right)
    return gaps.abs().sum().item() / len(confidence)


def means(differences: list[Tensor], right: Tensor) -> dict[str, float]:
    """Of `spread`'s rows: over all images, those answered rightly, those answered wrongly (where there are such)."""
    parts = {"": torch.ones_like(right), "_right": right, "_wrong": 1 - right}
    return {
        f"{name}{part}": ((values * chosen).sum() / chosen.sum()).item()
        for name, values in zip(("spread", "mutual_information"), differences, strict=True)
        for part, chosen in parts.items()
        if chosen.any()
    }
