"""What strategies of execution bring to a run, which knows them by these protocols alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runner.data.splits import Split
from runner.evaluation.base import Member
from runner.train.batch import Batch

Replay = Callable[[], None]


class Capture(Protocol):
    """How work is recorded. While it is, nothing is computed; each replay computes it all, from what lies then where
    it was read, into the memory that was written. Of the host's part nothing happens again, but that the generators
    draw anew."""

    def __call__(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Replay: ...


class Gradients(Protocol):
    """The gradients of a step by other means than the network's own code, such as a CUDA graph."""

    def __call__(self, batches: list[Batch]) -> Tensor:
        """Return the losses; the gradients stand, and what meters count was counted."""


class Collective(Protocol):
    """The processes that train one run together, seen from one of them."""

    leads: bool  # whether this process writes and evaluates
    size: int

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""

    def tell(self, what: Any) -> None:
        """Say something to all others, who `hear` it."""

    def hear(self) -> Any:
        """Return what the leading process says next."""


class Features(Protocol):
    """What enters the first stage that trains, kept for a run's splits."""

    @property
    def origin(self) -> str:
        """Return what is equal for features that are the same."""

    def batches(self, order: Iterable[Tensor], draws: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training split's batches: features `[B, ...]` and labels `[B]`."""

    def enter(self, images: Tensor) -> Tensor:
        """Return the features of normalized images."""

    def rest(self, model: nn.Module) -> nn.Module:
        """Return a network from the features on."""

    def members(self, members: Sequence[nn.Module], split: Split) -> Sequence[nn.Module | Member]:
        """Return networks as `evaluate` asks them for one pass over a split."""
