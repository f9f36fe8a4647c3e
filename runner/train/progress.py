"""Progress: step, history, best epoch and early stopping of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from runner.train.selection import Selection

Row = dict[str, float | int | None]


class Diverged(Exception):
    """A loss is not finite; it ends the run with a result."""

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


class Pruned(Exception):
    """A pruner has stopped the run; it ends with a result."""


@dataclass
class Progress:
    """State of training that a checkpoint keeps beside weights, optimizer and generators."""

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: Row | None = None
    best_weights: dict[str, Tensor] | None = None
    waited: int = 0  # epochs without improvement
    watched: float | None = None  # the early-stopping metric at its best
    stopped: bool = False
    seconds: float = 0.0  # of training, in earlier processes
    hits: float = 0.0  # correct predictions of the epoch so far, on training batches
    loss_sum: float = 0.0
    last_good: dict[str, float] = field(default_factory=dict)

    def record_validation(self, row: Row, network: nn.Module, keep: Selection, stop: Mapping[str, Any]) -> None:
        """Copy the weights if this epoch is the best so far; stop the run after `patience` epochs without one.

        stop: `early_stopping` of the config.
        """
        if keep.keeps_best and (self.best is None or better(row, self.best, keep.rule)):
            self.best = row
            weights = network.state_dict()
            if self.best_weights is None:
                self.best_weights = {name: torch.empty_like(value) for name, value in weights.items()}
            for name, value in weights.items():
                self.best_weights[name].copy_(value)
        if stop["patience"] is None:
            return
        value = -row["val_accuracy"] if stop["metric"] == "val_accuracy" else row["val_loss"]
        if self.watched is None or value < self.watched - stop["min_delta"]:
            self.watched, self.waited = value, 0
        else:
            self.waited += 1
        self.stopped = self.waited >= stop["patience"]


def better(row: Row, best: Row, metric: str) -> bool:
    """Return whether a row beats the best. The loss breaks ties of accuracy; of equal rows the earlier one stays."""
    if metric == "val_accuracy":
        return (row["val_accuracy"], -row["val_loss"]) > (best["val_accuracy"], -best["val_loss"])
    return row["val_loss"] < best["val_loss"]
