"""`hydra/sweeper=grid`: plans and checks every combination, then hands the launcher one plan."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridConfig:
    _target_: str = "hydra_plugins.runner.grid.GridSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # the sweep of an experiment
    grids: list[Any] = field(default_factory=list)  # several Cartesian products, each combined with `params`
    multirun: bool = True  # false: without -m, a plan of one run


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConfig, provider="runner")


class GridSweeper(Sweeper):
    def __init__(self, params: dict[str, Any], grids: list[Any], multirun: bool):
        self.multirun = multirun  # sweeps are read from the config of each experiment

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from runner.sweep.compose.config_cache import cache_files

        self.config = config
        HydraConfig.instance().set_config(config)  # because keys of the command may refer to ${hydra:...}
        cache_files(hydra_context.config_loader)
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from runner.core import interruption
        from runner.sweep.compose.compose import Composer

        with interruption.deferred():  # because an interrupted import leaves half a library
            from runner.sweep.run.grid import grid  # loads torch

        interruption.check()
        grid(Composer(self.config, self.hydra_context.config_loader), self.launcher, arguments, self.multirun)
