"""A model and a split in, numbers out."""

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from runner.data.splits import Split
from runner.evaluation.standard import Standard
from runner.inputs import Normalize

MOST_PIXELS = 1 << 22  # of a batch larger than the training batch: activations must fit where training fits


@dataclass(frozen=True)
class Measured:
    """What an evaluation found."""

    loss: float  # mean negative log-likelihood, nats
    accuracy: float
    confusion: Tensor  # int64 [K, K]: rows true, columns predicted


@torch.no_grad()
def evaluate(
    members: Iterable[nn.Module],
    split: Split,
    normalize: Normalize,
    autocast: Callable[[], contextlib.AbstractContextManager],
    batch_size: int,
    num_classes: int,
    evaluation: Standard | None = None,
) -> Measured:
    """Measures the mean of the members' probabilities on every image of a split; members are in evaluation mode."""
    evaluation = evaluation or Standard()
    members = list(members)
    device = split.labels.device
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device="cpu" if device.type == "mps" else device)
    pixels = split.shape[0] * normalize.size**2
    rows = torch.arange(len(split), device=device).split(max(batch_size, min(256, MOST_PIXELS // pixels)))
    for images, labels in split.batches(rows):
        images = normalize(images)
        with autocast():
            logs = [evaluation.log_probabilities(member, images) for member in members]
        # Averaged as probabilities, but never out of the logarithm: a loss of 1e29 stays one, and a NaN a NaN.
        log = logs[0] if len(logs) == 1 else torch.stack(logs).logsumexp(0) - math.log(len(logs))
        loss += nll_loss(log, labels, reduction="sum")
        confusion += torch.bincount(labels * num_classes + log.argmax(1), minlength=num_classes**2)
    confusion = confusion.view(num_classes, num_classes).cpu()
    return Measured(loss.item() / len(split), confusion.diag().sum().item() / len(split), confusion)
