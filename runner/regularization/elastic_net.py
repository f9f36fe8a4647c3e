"""Elastic net (Zou & Hastie 2005): L1 and L2 as one loss term."""

from torch import Tensor, nn

from runner.core.schema import NonNegative
from runner.regularization.base import Item, weights
from runner.regularization.l1 import absolute_sum
from runner.regularization.l2 import half_squares


class ElasticNet(Item):
    """`l1 * sum of absolute weights + l2 / 2 * sum of squared weights`."""

    def __init__(self, l1: NonNegative = 1e-5, l2: NonNegative = 5e-4):
        self.l1, self.l2 = l1, l2

    def penalty(self, model: nn.Module) -> Tensor:
        parameters = weights(model)
        return self.l1 * absolute_sum(parameters) + self.l2 * half_squares(parameters)
