"""Protocols of the execution strategies that a run uses."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runner.data.splits import Split
from runner.evaluation.base import Member
from runner.train.batch import Batch

Replay = Callable[[], None]


class Capture(Protocol):
    """Records work for replays, as a CUDA graph does; nothing is computed while it records.

    A replay reads and writes the same memory as the recording. It repeats no host code; generators draw new numbers.
    """

    def __call__(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay: ...


class Gradients(Protocol):
    """Computes the gradients of a step by other means than the network's code, such as a CUDA graph."""

    def __call__(self, batches: list[Batch]) -> Tensor:
        """Return the losses; set the gradients and update the meters."""


class Collective(Protocol):
    """Process group that trains one run; an instance is one process's end of it."""

    is_leader: bool  # whether this process writes and evaluates
    size: int

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""

    def broadcast(self, value: Any) -> None:
        """Send an object from the leading process to all others."""

    def receive(self) -> Any:
        """Return the next object that the leading process sends."""


class Features(Protocol):
    """Cached features of a run's splits: the inputs of the first stage that trains."""

    @property
    def origin(self) -> str:
        """Return a key; equal features have equal keys."""

    def batches(self, order: Iterable[Tensor], draws: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training split's batches: features `[B, ...]` and labels `[B]`."""

    def enter(self, images: Tensor) -> Tensor:
        """Return the features of normalized images."""

    def rest(self, model: nn.Module) -> nn.Module:
        """Return the part of the network that follows the features."""

    def members(self, members: Sequence[nn.Module], split: Split) -> Sequence[nn.Module | Member]:
        """Return the networks as `evaluate` takes them for one pass over a split."""
