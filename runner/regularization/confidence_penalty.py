"""Confidence penalty (Pereyra et al. 2017): a loss term against predictions of low entropy."""

import math

from torch import Tensor
from torch.nn.functional import log_softmax

from runner.core.context import Context
from runner.core.schema import NonNegative, Rate
from runner.regularization.base import Item


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy `[B]` of each row's softmax, for logits `[B, K]`: nats, between 0 and log K."""
    log_probabilities = log_softmax(logits, 1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


class ConfidencePenalty(Item):
    """`-weight * entropy`, averaged over the batch (section 3).

    threshold: in nats. It makes the term `weight * max(0, threshold - entropy)`, so that only predictions of a lower
    entropy are penalized (section 3.1; the sign printed there would decrease entropy).
    """

    def __init__(self, weight: NonNegative = 0.1, threshold: Rate | None = None):
        self.weight, self.threshold = weight, threshold

    def check(self, context: Context) -> str | None:
        max_entropy = math.log(context.num_classes)
        if self.threshold is not None and self.threshold > max_entropy:
            return (
                f"regularization.confidence_penalty.threshold={self.threshold}: the entropy of {context.num_classes} "
                f"classes is never above {max_entropy:.4g}; use less, or null for no threshold"
            )
        return None

    def output_penalty(self, logits: Tensor) -> Tensor:
        if self.threshold is None:
            return -self.weight * entropy(logits).mean()
        return self.weight * (self.threshold - entropy(logits)).clamp(min=0).mean()
