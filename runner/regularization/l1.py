"""L1 as a loss term: a constant pull toward zero that makes weights sparse (Tibshirani 1996)."""

from torch import Tensor, nn

from runner.core.schema import NonNegative
from runner.regularization.base import Item, weights


def absolute_sum(parameters: list[nn.Parameter]) -> Tensor:
    """Return the sum of absolute values. Its gradient is the sign, 0 at 0."""
    return sum(w.abs().sum() for w in parameters)


class L1(Item):
    """`weight * sum of absolute weights`."""

    def __init__(self, weight: NonNegative = 1e-5):
        self.weight = weight

    def penalty(self, model: nn.Module) -> Tensor:
        return self.weight * absolute_sum(weights(model))
