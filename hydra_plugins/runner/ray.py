"""`hydra/launcher=ray`: executes a plan on a Ray cluster, or on one that it starts on this machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from hydra_plugins.runner.launcher import PlanLauncher

if TYPE_CHECKING:
    from runner.sweep.workers.ray import Ray


@dataclass
class RayConfig:
    _target_: str = "hydra_plugins.runner.ray.RayLauncher"
    address: Any = None  # null: start a cluster on this machine | auto: the one that runs here | HOST:PORT
    workers: Any = "auto"  # auto | N runs at once; auto: as many as fit on the cluster
    gpus: Any = "auto"  # per run; below 1: several runs share a GPU; auto: 1 if this machine has GPUs, else 0
    timeout: Any = None  # seconds per run; null: no limit


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConfig, provider="runner")


class RayLauncher(PlanLauncher):
    def __init__(self, **values: Any):
        self.values = values

    def open(self) -> "Ray":
        """Return what executes plans. Raises `ConfigError` for invalid values and if Ray is not installed."""
        from runner.sweep.workers.ray import Ray

        return Ray(self.hydra_context, **self.values)
