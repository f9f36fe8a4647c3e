"""`hydra/launcher=slurm`: executes each run of a plan as a Slurm job, through submitit."""

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
    executor: str = "slurm"  # slurm | local: processes of this machine, for trying a command out
    jobs: Any = "auto"  # auto | N jobs at once, queued ones included; auto: all (slurm), one per core (local)
    time: int = 60  # minutes per job; a run that needs more resumes in the same job, requeued
    gpus: Any = "auto"  # per run; auto: 1 if this machine has GPUs, else 0
    cpus_per_task: Any = "auto"  # auto: the number of threads of a run
    mem_gb: Any = None  # null: the cluster's default
    partition: Any = None
    setup: list[str] = field(default_factory=list)  # shell commands before each job: [module load cuda]
    parameters: dict[str, Any] = field(default_factory=dict)  # options of sbatch: hydra.launcher.parameters.account=lab


ConfigStore.instance().store(group="hydra/launcher", name="slurm", node=SlurmConfig, provider="runner")


class SlurmLauncher(PlanLauncher):
    def __init__(self, **values: Any):
        self.values = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in values.items()
        }

    def open(self) -> "Slurm":
        """Return what executes plans. Raises `ConfigError` for invalid values and if submitit is not installed."""
        from runner.sweep.workers.slurm import Slurm

        return Slurm(self.hydra_context, **self.values)
