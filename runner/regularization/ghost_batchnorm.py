"""Ghost batch normalization (Hoffer, Hubara & Soudry 2017, algorithm 1)."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.core.schema import Factor, Rate, Whole
from runner.regularization.batchnorm import BatchNorm


class GhostBatchNormLayer(nn.modules.batchnorm._BatchNorm):
    """Batch norm applied to one piece of the batch `[B, C]` or `[B, C, ...]` after another.

    Each piece updates the running statistics, which are used at test time.
    """

    def __init__(self, channels: int, ghost_batch_size: int, **keys: Any):
        super().__init__(channels, **keys)
        self.ghost_batch_size = ghost_batch_size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # A loop, because pieces of channels-last images stay channels-last; folding pieces into the channels would not.
        # `split`, because torch.compile computes wrong gradients for slices (`tensor_split`) of channels-last images
        # (torch 2.14, CPU).
        norm = super().forward
        return torch.cat([norm(piece) for piece in x.split(pieces(len(x), self.ghost_batch_size))])

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any number of axes after the channels."""

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"


def pieces(images: int, ghost_batch_size: int) -> list[int]:
    """Return the sizes of the pieces: nearly equal, at most `ghost_batch_size`, and at least two images."""
    count = max(1, min(-(-images // ghost_batch_size), images // 2))
    smallest, larger = divmod(images, count)
    return [smallest + 1] * larger + [smallest] * (count - larger)


class GhostBatchNorm(BatchNorm):
    """Batch norm with statistics of at most `ghost_batch_size` images while training."""

    def __init__(
        self,
        ghost_batch_size: Annotated[Whole, Field(ge=2)] = 32,
        momentum: Factor = 0.1,
        eps: Rate = 1e-5,
        affine: bool = True,
    ):
        super().__init__(momentum, eps, affine)
        self.ghost_batch_size = ghost_batch_size

    def norm(self, layer: nn.Module, channels: int, **factory: Any) -> nn.Module:
        return GhostBatchNormLayer(channels, self.ghost_batch_size, **self.keys, **factory)
