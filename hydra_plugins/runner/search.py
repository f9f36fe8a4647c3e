"""`hydra/sweeper=search`: Optuna proposes the runs, one whenever a worker is free."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConfig:
    _target_: str = "hydra_plugins.runner.search.SearchSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # the space that an experiment brings
    grids: list[Any] = field(default_factory=list)  # of the sweeper `grid`
    multirun: bool = True  # false: typed without -m, a plan of one run
    sampler: Any = "tpe"  # tpe | random | grid | cmaes
    n_trials: Any = None  # in all, those of earlier commands included; null: 20, or the whole grid
    pruner: Any = "none"  # none | median | halving | hyperband
    metric: Any = "val_accuracy"  # one, or a list: [val_accuracy,seconds]
    seed: Any = 0  # of the sampler
    startup_trials: Any = None  # drawn at random before tpe learns (10), done before median prunes (5)
    min_epochs: Any = None  # that every run is given, whatever the pruner (1)
    reduction_factor: Any = None  # halving (4), hyperband (3): one run in so many goes on from a rung


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConfig, provider="runner")


class SearchSweeper(Sweeper):
    def __init__(self, multirun: bool, **_: Any):
        self.multirun = multirun  # the rest is read from the config

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from runner.errors import ConfigError

        loader = self.hydra_context.config_loader
        if not self.multirun:
            from runner.sweep.grid import grid

            grid(self.config, loader, self.launcher, arguments, multirun=False)
            return
        try:
            import cmaes  # noqa: F401
            import optuna  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"hydra/sweeper=search: {error.name} is not installed: pip install 'runner[search]'"
            ) from error
        from runner.sweep.search import search

        search(self.config, loader, self.launcher, arguments)
