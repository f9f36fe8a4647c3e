"""L2 as a loss term: equals weight decay for plain SGD, but not for Adam (Loshchilov & Hutter 2019)."""

from torch import Tensor, nn

from runner.core.schema import NonNegative
from runner.regularization.base import Item, weights


def half_squares(parameters: list[nn.Parameter]) -> Tensor:
    """Return half the sum of squares. Its gradient is the parameters."""
    return 0.5 * sum(w.square().sum() for w in parameters)


class L2(Item):
    """`weight / 2 * sum of squared weights`. Its gradient is `weight * w`."""

    def __init__(self, weight: NonNegative = 5e-4):
        self.weight = weight

    def penalty(self, model: nn.Module) -> Tensor:
        return self.weight * half_squares(weights(model))
