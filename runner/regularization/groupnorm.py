"""Group normalization (Wu & He 2018)."""

import math
from typing import Any

from torch import nn

from runner.core.context import Context
from runner.core.schema import Positive, Rate
from runner.regularization.norms import Norms, channels, hidden_layers


class GroupNorm(Norms):
    """`(x - mean) / sqrt(variance + eps) * weight + bias`, with mean and variance per image and group of channels.

    It is the same while training and at test time. Without `affine` there are no weight and bias.
    """

    def __init__(self, num_groups: Positive = 8, eps: Rate = 1e-5, affine: bool = True):
        self.num_groups, self.eps, self.affine = num_groups, eps, affine

    def norm(self, layer: nn.Module, channels: int, **factory: Any) -> nn.Module:
        return nn.GroupNorm(self.num_groups, channels, self.eps, self.affine, **factory)

    def check(self, context: Context) -> str | None:
        if line := super().check(context):
            return line
        layers = hidden_layers(context.model)
        misfit = next((name for name, layer in layers if not _fits(layer, self.num_groups)), None)
        if misfit is None:
            return None
        divisor = math.gcd(*(channels(layer) for _, layer in layers))
        fitting = [str(n) for n in range(1, divisor + 1) if all(_fits(layer, n) for _, layer in layers)]
        layer = context.model.get_submodule(misfit)
        unit, condition = ("channels", "") if isinstance(layer, nn.Conv2d) else ("features", " of two or more")
        remedy = f"use one of {', '.join(fitting)}" if fitting else "use regularization=[batchnorm]"
        return (
            f"regularization.groupnorm.num_groups={self.num_groups}: the {channels(layer)} {unit} of {misfit} cannot "
            f"be cut into {self.num_groups} equal groups{condition}; {remedy}"
        )


def _fits(layer: nn.Conv2d | nn.Linear, groups: int) -> bool:
    """Return whether the groups divide a layer's channels. A group of one feature is excluded: it would become 0."""
    if channels(layer) % groups:
        return False
    return isinstance(layer, nn.Conv2d) or channels(layer) > groups
