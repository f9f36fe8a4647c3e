"""Confidence penalty (Pereyra et al. 2017): answers of low entropy cost."""

import math

from torch import Tensor
from torch.nn.functional import log_softmax

from runner.core.context import Context
from runner.core.schema import NonNegative, Rate
from runner.regularization.base import Item


def entropy(logits: Tensor) -> Tensor:
    """Of the softmax of each row of `[B, K]`, in nats: `[B]`, between 0 and log K."""
    logs = log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1)


class ConfidencePenalty(Item):
    """`-weight * entropy`, the batch's mean (section 3).

    threshold: in nats; with one the term is `weight * max(0, threshold - entropy)`, so that only the answers below it
    are pushed (section 3.1; its printed sign would pull entropy down).
    """

    def __init__(self, weight: NonNegative = 0.1, threshold: Rate | None = None):
        self.weight, self.threshold = weight, threshold

    def check(self, context: Context) -> str | None:
        most = math.log(context.num_classes)
        if self.threshold is not None and self.threshold > most:
            return (
                f"regularization.confidence_penalty.threshold={self.threshold}: the entropy of {context.num_classes} "
                f"classes is never above {most:.4g}; use less, or null for no threshold"
            )
        return None

    def output_penalty(self, logits: Tensor) -> Tensor:
        if self.threshold is None:
            return -self.weight * entropy(logits).mean()
        return self.weight * (self.threshold - entropy(logits)).clamp(min=0).mean()
