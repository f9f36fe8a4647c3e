"""Base of the launchers: they take whole plans from the sweepers `grid` and `search`, never single jobs."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from runner.sweep.run import launch


class PlanLauncher(Launcher):
    """Base class of `hydra/launcher=...`. The option is named after the module."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        if not config.hydra.sweeper._target_.startswith(f"{__package__}."):
            from runner.core.errors import ConfigError

            option = type(self).__module__.rpartition(".")[2]
            raise ConfigError(f"hydra/launcher={option} takes plans: use it with hydra/sweeper=grid or search")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        raise AssertionError("the sweepers grid and search hand over plans")

    @abstractmethod
    def open(self) -> "launch.Launcher":
        """Return what executes plans. Raises `ConfigError` for invalid values and for a missing package."""
