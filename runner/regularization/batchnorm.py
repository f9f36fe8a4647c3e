"""Batch normalization (Ioffe & Szegedy 2015)."""

from typing import Any

from torch import nn

from runner.core.context import Context
from runner.core.schema import Factor, Rate
from runner.core.timeline import batches
from runner.regularization.norms import Norms


class BatchNorm(Norms):
    """`(x - mean) / sqrt(variance + eps) * weight + bias`, per channel (algorithm 1).

    Mean and variance are the (micro-)batch's while training, and running averages at test time. `momentum` is the
    weight of the newest batch in these. Without `affine` there are no weight and bias.
    """

    def __init__(self, momentum: Factor = 0.1, eps: Rate = 1e-5, affine: bool = True):
        self.keys = {"momentum": momentum, "eps": eps, "affine": affine}

    def norm(self, layer: nn.Module, channels: int, **factory: Any) -> nn.Module:
        kind = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
        return kind(channels, **self.keys, **factory)

    def check(self, context: Context) -> str | None:
        if line := super().check(context):
            return line
        batch_size, micro_batches = batches(context.config, context.train_size)
        if batch_size // micro_batches < 2:
            return (
                f"batch_size={batch_size}, accumulate={micro_batches}: one image has no variance to normalize by; "
                "give at least 2 images a micro-batch, or use regularization=[groupnorm]"
            )
        return None
