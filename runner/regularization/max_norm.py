"""Max-norm constraint (Srebro & Shraibman 2005; Srivastava et al. 2014, section 5.1)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from runner.core.context import Context
from runner.core.schema import Rate
from runner.regularization.base import Item

OWNERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, ParametrizationList)


class MaxNorm(Item):
    """Upper bound `max_norm` on the L2 norm of each unit's incoming weights, enforced by scaling after each step.

    A unit is an output of a linear layer or an output channel of a convolution. Biases are not included.
    """

    def __init__(self, max_norm: Rate = 3.0):
        self.max_norm = max_norm

    def check(self, context: Context) -> str | None:
        if next(incoming(context.model), None) is not None:
            return None
        return (
            f"regularization=[max_norm]: {type(context.model).__name__} has no linear layer or convolution; "
            "use another model or leave max_norm out"
        )

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for weight in incoming(model):
            weight.renorm_(2, 0, self.max_norm)


def incoming(model: nn.Module) -> Iterator[Tensor]:
    """Yield the trainable weights with one row per unit, `[O, I]` or `[O, I, H, W]`.

    For a parametrized layer this is the original weight, which the optimizer updates. Class tokens, position
    embeddings and scales are excluded: they can have several axes, but are no unit's incoming weights.
    """
    for module in model.modules():
        if isinstance(module, OWNERS):
            for weight in module.parameters(recurse=False):
                if weight.requires_grad and weight.ndim in (2, 4):
                    yield weight
