"""`hydra/launcher=local`: executes a sweep in worker processes of this machine, a lone run in this process."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.runner.launcher import PlanLauncher

if TYPE_CHECKING:
    from runner.sweep.workers.local import Local


@dataclass
class LocalConfig:
    _target_: str = "hydra_plugins.runner.local.LocalLauncher"
    workers: Any = "auto"  # auto | N | 0 (this process); auto: one per GPU, or one per core
    runs_per_gpu: Any = "auto"  # auto | N; auto: by the peak memory of the first run
    timeout: Any = None  # seconds per run; null: no limit
    fuse: Any = "auto"  # auto | true | false: train runs of one network as one program; auto: if that is faster
    fuse_max: Any = "auto"  # auto | N: largest number of runs in such a group


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalConfig, provider="runner")


class LocalLauncher(PlanLauncher):
    def __init__(self, workers: Any, runs_per_gpu: Any, timeout: Any, fuse: Any, fuse_max: Any):
        self.workers, self.runs_per_gpu, self.timeout = workers, runs_per_gpu, timeout
        self.fuse, self.fuse_max = fuse, fuse_max

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if config.hydra.sweeper.get("multirun", True) and self.workers != 0 and not config.dry_run:
            from runner.sweep.workers.forkserver import prepare

            # The workers' server loads torch while this process does.
            prepare([str(config[group].get("_target_")) for group in ("data", "model")])

    def open(self) -> "Local":
        """Return what executes plans. Raises `ConfigError` for invalid values."""
        from runner.sweep.workers.local import Local

        return Local(self.hydra_context, self.workers, self.runs_per_gpu, self.timeout, self.fuse, self.fuse_max)
