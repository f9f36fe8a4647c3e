"""`hydra/launcher=ray`: the runs of a plan on a Ray cluster, or on one that is started here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.runner.launcher import PlanLauncher

if TYPE_CHECKING:
    from runner.sweep.workers.ray import Ray


@dataclass
class RayConfig:
    _target_: str = "hydra_plugins.runner.ray.RayLauncher"
    address: Any = None  # null: a cluster of this machine alone | auto: the one that runs here | HOST:PORT
    workers: Any = "auto"  # auto | N, runs at once; auto: as many as the cluster has room for
    gpus: Any = "auto"  # of each run; below 1, several runs share a GPU; auto: 1 where this machine has GPUs, else 0
    timeout: Any = None  # seconds that a run may take; null: any


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConfig, provider="runner")


class RayLauncher(PlanLauncher):
    def __init__(self, **values: Any):
        self.values = values

    def open(self) -> "Ray":
        """What executes plans. Raises `ConfigError` for values that cannot be, and where Ray is missing."""
        from runner.sweep.workers.ray import Ray

        return Ray(self.hydra_context, **self.values)
