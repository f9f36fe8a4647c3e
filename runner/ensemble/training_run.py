"""What an ensemble may ask of the run that it accompanies."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runner.data.splits import Split
from runner.schedule.base import Schedule


class TrainingProgress(Protocol):
    """How far a run has come, and what early stopping remembers."""

    step: int  # of the optimizer, done
    stopped: bool
    waited: int  # epochs without improvement
    watched: float | None  # the early-stopping metric at its best
    best: dict[str, Any] | None
    best_weights: dict[str, Tensor] | None


class TrainingRun(Protocol):
    """A run while it trains; `runner.train.state.TrainState` is one."""

    config: dict[str, Any]
    parts: Any
    model: nn.Module
    device: torch.device
    schedule: Schedule
    transfer: Any
    progress: TrainingProgress
    train_split: Split
    normalize: Callable[[Tensor], Tensor]
    steps: int
    steps_per_epoch: int
    batch_size: int
    accumulate: int  # micro-batches of a batch

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the precision of the forward pass."""
