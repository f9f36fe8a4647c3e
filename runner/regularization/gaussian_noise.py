"""Gaussian noise on the inputs of layers (Bishop 1995; Srivastava et al. 2014, section 10)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.model.noise import Noise
from runner.regularization.base import Item
from runner.regularization.layers import no_place, places


class GaussianNoiseLayer(Noise):
    """Noise layer: `x + N(0, std^2)`, or `x * N(1, std^2)` if multiplicative, drawn per activation while training.

    The identity at test time, because the mean of both is x.
    """

    item = "gaussian_noise"

    def __init__(self, std: float, multiplicative: bool, noise: torch.Generator | None):
        super().__init__(noise)
        self.std, self.multiplicative = std, multiplicative

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        noise = torch.empty_like(x).normal_(0, self.std, generator=self.noise)
        return x * (1 + noise) if self.multiplicative else x + noise

    def extra_repr(self) -> str:
        return f"std={self.std}, multiplicative={self.multiplicative}"


class GaussianNoise(Item):
    """Gaussian noise on the inputs of layers.

    std: in the units of the layer's input (normalized pixels for the images). If multiplicative, relative to the
    activation: `sqrt(p / (1 - p))` gives the variance of dropout at p, so 1 corresponds to p = 0.5.
    where: `input` (the layer that reads the images), `linear` (before every linear layer except one that reads the
    images), `conv` (before every convolution except the first), `head` (before the last layer).
    """

    def __init__(
        self,
        std: float = 0.1,
        multiplicative: bool = False,
        where: Literal["input", "linear", "conv", "head"] = "input",
    ):
        if not 0 <= std < math.inf:
            raise ConfigError(f"regularization.gaussian_noise.std={std}: must be a number, not below 0")
        self.std, self.multiplicative, self.where = std, multiplicative, where

    def check(self, context: Context) -> str | None:
        return no_place("gaussian_noise", self.where, context.model, "input, linear, conv, head")

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for name in places(model, self.where):
            layer = model.get_submodule(name)
            layer.add_module("gaussian_noise", GaussianNoiseLayer(self.std, self.multiplicative, noise))
            layer.register_forward_pre_hook(_add)


def _add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.gaussian_noise(inputs[0]), *inputs[1:])
