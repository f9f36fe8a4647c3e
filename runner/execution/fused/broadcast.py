"""Activations that are equal for all networks of a program and therefore computed once."""

import torch
from torch import Tensor


class Broadcast(Tensor):
    """Activations `[B, C, ...]` shared by all networks, as are results of operations on them alone.

    The first layer with weights turns them into `[B, N * C, ...]`.
    """


def broadcast(x: Tensor) -> Broadcast:
    """Mark activations as shared by all networks."""
    return x.as_subclass(Broadcast)


def unmark(x: Tensor) -> Tensor:
    """Return activations as a plain tensor."""
    return x.as_subclass(Tensor) if isinstance(x, Broadcast) else x


def repeat_channels(x: Tensor, count: int) -> Tensor:
    """Return shared activations repeated for each network, `[B, count * C, ...]`; other activations unchanged."""
    return torch.cat([unmark(x)] * count, 1) if isinstance(x, Broadcast) else x
