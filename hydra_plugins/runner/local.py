"""`hydra/launcher=local`: the runs of a plan one after the other, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from runner.sweep.plan import Plan


@dataclass
class LocalConfig:
    _target_: str = "hydra_plugins.runner.local.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConfig, provider="runner")


class LocalLauncher(Launcher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from runner.errors import ConfigError

        raise ConfigError("hydra/launcher=local takes plans: use it with hydra/sweeper=grid")

    def launch_plan(self, plan: "Plan") -> None:
        """Executes what the plan has left to do; results are in the runs' folders."""
        from runner.sweep.local import launch

        launch(plan, self.hydra_context)
