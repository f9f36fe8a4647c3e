"""How far a run has come, and how well."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from runner.train.selection import Selection

Row = dict[str, float | int | None]


class Diverged(Exception):
    """A loss was not finite: an end, and a result."""

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


class Pruned(Exception):
    """A judge saw no reason to go on: an end, and a result."""


@dataclass
class Progress:
    """How far a run has come: all that a checkpoint must keep beside weights, optimizer and generators."""

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: Row | None = None
    best_weights: dict[str, Tensor] | None = None
    waited: int = 0  # epochs without improvement
    watched: float | None = None  # the early-stopping metric at its best
    stopped: bool = False
    seconds: float = 0.0  # of training, before this process
    hits: float = 0.0  # right answers of the epoch so far, on training batches
    loss_sum: float = 0.0
    last_good: dict[str, float] = field(default_factory=dict)

    def judge(self, row: Row, network: nn.Module, keep: Selection, stop: Mapping[str, Any]) -> None:
        """Keep the best weights of the network that was validated; end the run where nothing improves.

        stop: `early_stopping` of the config.
        """
        if keep.keeps_best and (self.best is None or better(row, self.best, keep.rule)):
            self.best = row
            now = network.state_dict()
            if self.best_weights is None:
                self.best_weights = {name: torch.empty_like(value) for name, value in now.items()}
            for name, value in now.items():
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
    """Whether a row beats the best so far; the loss breaks ties of accuracy, and the earlier epoch those that stay."""
    if metric == "val_accuracy":
        return (row["val_accuracy"], -row["val_loss"]) > (best["val_accuracy"], -best["val_loss"])
    return row["val_loss"] < best["val_loss"]
