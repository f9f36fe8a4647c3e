"""What is the same for all networks of a program, and so is computed once."""

import torch
from torch import Tensor


class Broadcast(Tensor):
    """Activations `[B, C, ...]` of one network that stand for those of every one; what follows from them alone does,
    too. The first layer that has weights turns them into those of all, side by side."""


def once(x: Tensor) -> Broadcast:
    """Marks them."""
    return x.as_subclass(Broadcast)


def plain(x: Tensor) -> Tensor:
    """Without the mark."""
    return x.as_subclass(Tensor) if isinstance(x, Broadcast) else x


def beside(x: Tensor, count: int) -> Tensor:
    """`[B, count * C, ...]`: as many times as there are networks, for layers that have no form for one."""
    return torch.cat([plain(x)] * count, 1) if isinstance(x, Broadcast) else x
