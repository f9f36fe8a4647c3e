"""Weight standardization (Qiao, Wang, Liu, Shen & Yuille 2019)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runner.core.context import Context
from runner.core.schema import Rate
from runner.regularization.base import Item
from runner.regularization.norms import hidden_layers


class Standardized(nn.Module):
    """Parametrization of kernels `[O, I, H, W]`: mean 0, standard deviation 1 per output channel (equations 5 to 7)."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        std, mean = torch.std_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        return (weight - mean) / (std + self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class WeightStandardization(Item):
    """Standardized kernels in convolutions. The optimizer, weight decay and penalties use the original kernels.

    Excluded are a convolution that computes the logits, and kernels of one weight, because their deviation is 0.
    """

    def __init__(self, eps: Rate = 1e-5):
        self.eps = eps

    def places(self, model: nn.Module) -> list[str]:
        """Return the dotted names of the convolutions to standardize."""
        return [name for name, layer in hidden_layers(model) if isinstance(layer, nn.Conv2d) and _fan_in(layer) > 1]

    def check(self, context: Context) -> str | None:
        if self.places(context.model):
            return None
        return (
            f"regularization=[weight_standardization]: {type(context.model).__name__} has no convolution before its "
            "last layer; use a model that has, e.g. model=convnet"
        )

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for name in self.places(model):
            parametrize.register_parametrization(model.get_submodule(name), "weight", Standardized(self.eps))


def _fan_in(layer: nn.Conv2d) -> int:
    """Return the number of weights of one output channel."""
    return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
