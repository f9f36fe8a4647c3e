"""L2 as a loss term: under plain SGD the same as weight decay, under Adam not (Loshchilov & Hutter 2019)."""

from torch import Tensor, nn

from runner.core.schema import NonNegative
from runner.regularization.base import Item, weights


def half_squares(parameters: list[nn.Parameter]) -> Tensor:
    """Half the sum of squares, whose gradient is the parameters."""
    return 0.5 * sum(w.square().sum() for w in parameters)


class L2(Item):
    """`weight / 2 * sum of squared weights`, whose gradient is `weight * w`."""

    def __init__(self, weight: NonNegative = 5e-4):
        self.weight = weight

    def penalty(self, model: nn.Module) -> Tensor:
        return self.weight * half_squares(weights(model))
