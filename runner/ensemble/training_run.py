"""Protocols of a training run, for ensembles."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runner.data.splits import Split
from runner.schedule.base import Schedule


class TrainingProgress(Protocol):
    """Progress of a run and the state of early stopping."""

    step: int  # optimizer steps done
    stopped: bool
    waited: int  # epochs without improvement
    watched: float | None  # best value of the early-stopping metric
    best: dict[str, Any] | None
    best_weights: dict[str, Tensor] | None


class TrainingRun(Protocol):
    """Training run; implemented by `runner.train.state.TrainState`."""

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
    accumulate: int  # number of micro-batches per batch

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the autocast context of the forward pass."""
