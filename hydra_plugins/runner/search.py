"""`hydra/sweeper=search`: Optuna proposes a run whenever a worker is free."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.runner.grid import GridSweeper


@dataclass
class SearchConfig:
    _target_: str = "hydra_plugins.runner.search.SearchSweeper"
    params: dict[str, Any] = field(default_factory=dict)  # the search space of an experiment
    grids: list[Any] = field(default_factory=list)  # for the sweeper `grid` only
    multirun: bool = True  # false: without -m, a plan of one run
    sampler: Any = "tpe"  # tpe | random | grid | cmaes
    n_trials: Any = None  # total, including earlier commands; null: 20, or the whole grid
    pruner: Any = "none"  # none | median | halving | hyperband
    metric: Any = "val_accuracy"  # a name, or a list: [val_accuracy,seconds]
    seed: Any = 0  # of the sampler
    startup_trials: Any = None  # random trials before tpe learns (10), finished ones before median prunes (5)
    min_epochs: Any = None  # epochs before any run may be pruned (1)
    reduction_factor: Any = None  # halving (4), hyperband (3): one run in N is promoted from a rung


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConfig, provider="runner")


class SearchSweeper(GridSweeper):
    def __init__(self, multirun: bool, **_: Any):
        self.multirun = multirun  # the rest is read from the config

    def sweep(self, arguments: list[str]) -> None:
        from runner.core import interruption
        from runner.core.errors import ConfigError

        if not self.multirun:
            super().sweep(arguments)
            return
        try:
            import cmaes  # noqa: F401
            import optuna  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"hydra/sweeper=search: {error.name} is not installed: pip install 'runner[search]'"
            ) from error
        with interruption.deferred():  # as in GridSweeper
            from runner.sweep.compose.compose import Composer
            from runner.sweep.search.search import search

        interruption.check()
        search(Composer(self.config, self.hydra_context.config_loader), self.launcher, arguments)
