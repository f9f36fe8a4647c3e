"""What an ensemble does while runs train, and which networks answer in the end."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from runner.core.option import Option
from runner.core.schema import Average
from runner.ensemble.training_run import TrainingRun


class Ensemble(Option):
    """The base of `ensemble=...`. Each run has an object of its own; hooks that are not overridden cost nothing.

    count: runs that are trained side by side, from seeds of their own.
    average: what is averaged over the members that answer: their probabilities, or their logits.
    """

    count: int = 1
    keeps_own: ClassVar[bool] = False  # whether the weights that answer are its own choice, no best epoch's
    average: Average = "probabilities"

    def begin(self, run: TrainingRun) -> None:
        """Before the first step, and before a checkpoint is read."""

    def after_step(self, run: TrainingRun) -> None:
        """After each step of the optimizer, before it is counted."""

    def after_epoch(self, run: TrainingRun, row: Mapping[str, float | int | None]) -> None:
        """After each validation."""

    def watched(self, run: TrainingRun) -> nn.Module:
        """The network that is validated while the run trains, and whose best weights are kept."""
        return run.model

    def members(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        """The networks that answer; each run's `watched` network carries its chosen weights."""
        return [run.parts.ensemble.watched(run) for run in runs]

    def compared(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        """Networks that went into the one that answers, where it is one alone: they are tested beside it."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The counterpart of `state_dict`."""
