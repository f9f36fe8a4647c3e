"""Declare the attributes that the mixins of a train state share."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from runner.data.normalize import Normalize
from runner.data.splits import Split
from runner.train.metrics import Meter
from runner.train.probes import Probe
from runner.train.progress import Progress, Row
from runner.train.protocols import Collective, Features
from runner.train.selection import Selection
from runner.train.slot import Slot


class Attributes:
    """Attributes and methods of `runner.train.state.TrainState` that its mixins use."""

    config: dict[str, Any]
    device: torch.device
    train_split: Split
    num_classes: int
    batch_size: int
    steps_per_epoch: int
    augmenting: torch.Generator
    pipeline: list[Any]  # transforms
    following: list[Any]  # transforms that need the indices of the images
    mixers: list[Any]  # regularization items that mix images and targets
    normalize: Normalize
    features: Features | None
    progress: Progress
    meter: Meter
    _batches: Iterator[tuple[Tensor, Tensor]] | None
    _rows: Iterator[Tensor] | None
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    transfer: Any
    ensemble: Any
    val_split: Split | None
    accumulate: int
    trained: list[Tensor]
    selection: Selection
    curvature_every: int  # epochs; 0: never
    team: Collective | None
    on_log: Callable[[int, dict[str, float]], None]
    on_epoch: Callable[[Row], None]
    noise: torch.Generator
    scaler: torch.amp.GradScaler | None
    probe: Probe
    slot: Slot | None
    compiled: bool | None

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the autocast context of the forward pass."""
        raise NotImplementedError

    def train_mode(self) -> None:
        """Set the training flags of the model's modules."""
        raise NotImplementedError

    def seconds(self) -> float:
        """Return the seconds of training so far."""
        raise NotImplementedError

    def lay_out(self) -> None:
        """Give the optimizer's state the memory layout of the weights."""
        raise NotImplementedError

    def rewind(self, losses: bool = True) -> None:
        """Drop the open batch iterators and, with `losses`, the metrics not yet read."""
        raise NotImplementedError
