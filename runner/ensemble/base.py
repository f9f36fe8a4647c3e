"""Base class of ensembles: hooks into training, and the choice of the networks that predict."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from runner.core.option import Option
from runner.core.schema import Average
from runner.ensemble.training_run import TrainingRun


class Ensemble(Option):
    """Base class of `ensemble=...`. Each run has its own instance; hooks that are not overridden cost nothing.

    count: runs that are trained side by side, each with its own seed.
    average: average the members' probabilities or their logits.
    """

    count: int = 1
    keeps_own: ClassVar[bool] = False  # whether it selects the final weights, in place of the best epoch's
    average: Average = "probabilities"

    def begin(self, run: TrainingRun) -> None:
        """Prepare for training; called before the first step and before a checkpoint is loaded."""

    def after_step(self, run: TrainingRun) -> None:
        """Act after each optimizer step; `run.progress.step` is not advanced yet."""

    def after_epoch(self, run: TrainingRun, row: Mapping[str, float | int | None]) -> None:
        """Act after each validation; `row`: its metrics."""

    def watched(self, run: TrainingRun) -> nn.Module:
        """Return the network that is validated during training. Its best weights are kept."""
        return run.model

    def members(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        """Return the networks that predict; each run's `watched` network holds its selected weights."""
        return [run.parts.ensemble.watched(run) for run in runs]

    def compared(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        """Return the networks that were merged into a single final one; they are tested for comparison."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `state_dict`."""
