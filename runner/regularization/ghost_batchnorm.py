"""Ghost batch normalization (Hoffer, Hubara & Soudry 2017, algorithm 1)."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from runner.core.schema import Factor, Rate, Whole
from runner.regularization.batchnorm import BatchNorm


class GhostBatchNormLayer(nn.modules.batchnorm._BatchNorm):
    """Batch norm over pieces of the batch, `[B, C]` or `[B, C, ...]`, one after the other.

    Each piece in turn moves the running statistics, by which test images are normalized.
    """

    def __init__(self, channels: int, ghost_batch_size: int, **keys: Any):
        super().__init__(channels, **keys)
        self.ghost_batch_size = ghost_batch_size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        # Pieces of channels-last images are channels-last, which a fold of them into the channels is not. And `split`,
        # for of slices (`tensor_split`) torch.compile makes wrong gradients where they are (torch 2.14, CPU).
        norm = super().forward
        return torch.cat([norm(piece) for piece in x.split(pieces(len(x), self.ghost_batch_size))])

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes behind the channels will do."""

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_batch_size={self.ghost_batch_size}"


def pieces(images: int, ghost_batch_size: int) -> list[int]:
    """Images of each piece: nearly equal numbers, `ghost_batch_size` at most, but never one image alone."""
    count = max(1, min(-(-images // ghost_batch_size), images // 2))
    least, more = divmod(images, count)
    return [least + 1] * more + [least] * (count - more)


class GhostBatchNorm(BatchNorm):
    """`batchnorm` whose statistics, while training, are those of `ghost_batch_size` images."""

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
