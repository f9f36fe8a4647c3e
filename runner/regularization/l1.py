"""L1 as a loss term: draws weights towards zero by the same force however small they are (Tibshirani 1996)."""

from torch import Tensor, nn

from runner.core.schema import NonNegative
from runner.regularization.base import Item, weights


def absolute_sum(parameters: list[nn.Parameter]) -> Tensor:
    """The sum of absolute values, whose gradient is the sign, 0 at 0."""
    return sum(w.abs().sum() for w in parameters)


class L1(Item):
    """`weight * sum of absolute weights`."""

    def __init__(self, weight: NonNegative = 1e-5):
        self.weight = weight

    def penalty(self, model: nn.Module) -> Tensor:
        return self.weight * absolute_sum(weights(model))
