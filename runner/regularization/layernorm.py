"""Layer normalization (Ba, Kiros & Hinton 2016)."""

from typing import Any

from torch import nn

from runner.core.context import Context
from runner.core.schema import Rate
from runner.regularization.norms import Norms, channels, hidden_layers


class LayerNorm(Norms):
    """`(x - mean) / sqrt(variance + eps) * weight + bias`, with mean and variance over a layer's output for an image.

    For convolutions these are over channels and pixels, with a weight and a bias per channel, as in Wu & He 2018,
    section 3.1. It is the same while training and at test time. Without `affine` there are no weight and bias.
    """

    def __init__(self, eps: Rate = 1e-5, affine: bool = True):
        self.eps, self.affine = eps, affine

    def norm(self, layer: nn.Module, channels: int, **factory: Any) -> nn.Module:
        if isinstance(layer, nn.Conv2d):
            return nn.GroupNorm(1, channels, self.eps, self.affine, **factory)
        return nn.LayerNorm(channels, self.eps, self.affine, **factory)

    def check(self, context: Context) -> str | None:
        if line := super().check(context):
            return line
        for name, layer in hidden_layers(context.model):
            if isinstance(layer, nn.Linear) and channels(layer) == 1:
                return (
                    f"regularization=[layernorm]: {name} gives one feature, which would always be normalized to 0; "
                    "use a wider layer, or regularization=[batchnorm]"
                )
        return None
