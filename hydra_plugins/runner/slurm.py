"""`hydra/launcher=slurm`: each run of a plan a job of a Slurm cluster (by submitit)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydra_plugins.runner.launcher import PlanLauncher

if TYPE_CHECKING:
    from runner.sweep.workers.slurm import Slurm


@dataclass
class SlurmConfig:
    _target_: str = "hydra_plugins.runner.slurm.SlurmLauncher"
    executor: str = "slurm"  # slurm | local: processes of this machine, to try a command out
    jobs: Any = "auto"  # auto | N, at once, those that wait included; auto: all (slurm), one a core (local)
    time: int = 60  # minutes that a job may take; a run that needs more goes on in the same job, queued again
    gpus: Any = "auto"  # of each run; auto: 1 where this machine has GPUs, else 0
    cpus_per_task: Any = "auto"  # auto: the threads of a run
    mem_gb: Any = None  # null: the cluster's own default
    partition: Any = None
    setup: list[str] = field(default_factory=list)  # shell commands before each job: [module load cuda]
    parameters: dict[str, Any] = field(default_factory=dict)  # of sbatch: hydra.launcher.parameters.account=lab


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmConfig, provider="runner")


class SlurmLauncher(PlanLauncher):
    def __init__(self, **values: Any):
        self.values = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in values.items()
        }

    def open(self) -> "Slurm":
        """What executes plans. Raises `ConfigError` for values that cannot be, and where submitit is missing."""
        from runner.sweep.workers.slurm import Slurm

        return Slurm(self.hydra_context, **self.values)
