"""Dropout (Srivastava et al. 2014), inverted or plain."""

from typing import Literal

import torch
from torch import Tensor, nn

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.model.noise import Noise, drop
from runner.regularization.base import Item
from runner.regularization.layers import no_place, places


class DropoutLayer(Noise):
    """Dropout layer: zeros each activation with probability p while training.

    inverted: the others are divided by `1 - p` while training; otherwise all are multiplied by `1 - p` at test time.
    Either way a test pass is the mean of the training passes.
    """

    item = "dropout"

    def __init__(self, p: float, inverted: bool, noise: torch.Generator | None):
        super().__init__(noise)
        self.p, self.inverted = p, inverted

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x if self.inverted else x * (1 - self.p)
        return drop(x, self.p, self.noise, scaled=self.inverted)

    def extra_repr(self) -> str:
        return f"p={self.p}, inverted={self.inverted}"


class Dropout(Item):
    """Dropout on the inputs of layers.

    where: `linear` (before every linear layer except one that reads the images), `conv` (before every convolution
    except the first), `head` (before the last linear layer or, in networks that end in one, the last convolution).
    """

    def __init__(self, p: float = 0.5, inverted: bool = True, where: Literal["linear", "conv", "head"] = "linear"):
        if not 0 <= p < 1:
            raise ConfigError(f"regularization.dropout.p={p}: must be at least 0 and below 1")
        self.p, self.inverted, self.where = p, inverted, where

    def places(self, model: nn.Module) -> list[str]:
        """Return the dotted names of the layers that get dropout before them."""
        return places(model, self.where)

    def check(self, context: Context) -> str | None:
        return no_place("dropout", self.where, context.model)

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for name in self.places(model):
            layer = model.get_submodule(name)
            layer.add_module("dropout", DropoutLayer(self.p, self.inverted, noise))
            layer.register_forward_pre_hook(_drop)


def _drop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.dropout(inputs[0]), *inputs[1:])
