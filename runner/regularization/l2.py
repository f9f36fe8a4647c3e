"""L2 as a loss term: under plain SGD the same as weight decay, under Adam not (Loshchilov & Hutter 2019)."""

import math

from torch import Tensor, nn

from runner.errors import ConfigError
from runner.regularization.base import Item, weights


class L2(Item):
    """`weight / 2 * sum of squared weights`, whose gradient is `weight * w`."""

    def __init__(self, weight: float = 5e-4):
        if not 0 <= weight < math.inf:
            raise ConfigError(f"regularization.l2.weight={weight}: must be a number, not below 0")
        self.weight = weight

    def penalty(self, model: nn.Module) -> Tensor:
        return 0.5 * self.weight * sum(w.square().sum() for w in weights(model))
