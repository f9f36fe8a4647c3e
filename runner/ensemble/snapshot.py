"""Snapshot ensembles (Huang et al. 2017): one run, one member per learning-rate cycle."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import Average, Positive
from runner.ensemble.base import Ensemble
from runner.ensemble.training_run import TrainingRun


class Snapshot(Ensemble):
    """Ensemble of the weights at the ends of the schedule's last `members` cycles, oldest first."""

    keeps_own: ClassVar[bool] = True

    def __init__(self, members: Positive = 5, average: Average = "probabilities"):
        if members < 2:
            raise ConfigError(f"ensemble.members={members}: an ensemble has at least 2; or ensemble=none")
        self.last, self.average = members, average
        self.kept: list[dict[str, Any]] = []

    def check(self, context: Context) -> str | None:
        ends = context.schedule.cycles()
        if not ends:
            return (
                "ensemble=snapshot: this schedule has no cycles that end within the run; use schedule=warm_restarts "
                "(or cyclic)"
            )
        if len(ends) < self.last:
            return (
                f"ensemble.members={self.last}: the schedule ends {len(ends)} cycles within the run; ask for fewer, or "
                "make them shorter (schedule.every of warm_restarts, schedule.up of cyclic)"
            )
        if context.config["early_stopping"]["patience"] is not None:
            return (
                f"early_stopping.patience={context.config['early_stopping']['patience']}: the first cycle could be the "
                "last; ensemble=snapshot needs early_stopping.patience=null"
            )
        return None

    def begin(self, run: TrainingRun) -> None:
        self.ends = frozenset(run.schedule.cycles()[-self.last :])

    def after_step(self, run: TrainingRun) -> None:
        if run.progress.step + 1 in self.ends:
            self.kept.append({name: value.clone() for name, value in run.model.state_dict().items()})

    def members(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        (run,) = runs
        networks = [copy.deepcopy(run.model) for _ in self.kept]
        for network, weights in zip(networks, self.kept):
            network.load_state_dict(weights)
        return networks

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = list(state["kept"])
