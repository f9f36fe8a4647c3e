"""Launcher `local`: executes plans in worker processes of this machine, a lone run in this process."""

from dataclasses import dataclass
from typing import Any

import torch
from hydra.types import HydraContext

from runner.core.devices import cores, visible_gpus
from runner.core.errors import ConfigError
from runner.core.text import shown
from runner.sweep.plan.plan import Plan
from runner.sweep.run.display import Display
from runner.sweep.run.executor import Executor, ThisProcess
from runner.sweep.workers import processes


@dataclass(frozen=True)
class Local:
    """Launcher of worker processes. Raises `ConfigError` for invalid values.

    workers: `auto`, a number, or 0 for this process. runs_per_gpu: `auto` or a number. timeout: seconds per
    run, or None. fuse: `auto`, True or False. fuse_max: `auto` or a number.
    """

    context: HydraContext
    workers: Any
    runs_per_gpu: Any
    timeout: Any
    fuse: Any = "auto"
    fuse_max: Any = "auto"

    def __post_init__(self) -> None:
        numbers = ("workers", self.workers, 0), ("runs_per_gpu", self.runs_per_gpu, 1), ("fuse_max", self.fuse_max, 1)
        for key, value, least in numbers:
            is_valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if value != "auto" and not is_valid:
                raise ConfigError(
                    f"hydra.launcher.{key}={shown(value)}: must be auto, or a whole number of at least {least}"
                )
        is_positive = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool) and self.timeout > 0
        if self.timeout is not None and not is_positive:
            raise ConfigError(f"hydra.launcher.timeout={shown(self.timeout)}: must be seconds above 0, or null")
        if self.fuse != "auto" and not isinstance(self.fuse, bool):
            raise ConfigError(f"hydra.launcher.fuse={shown(self.fuse)}: must be auto, true or false")
        if self.timeout is not None and self.workers == 0:
            raise ConfigError("hydra.launcher.timeout needs worker processes: leave hydra.launcher.workers=0 out")

    def count(self, runs: int, lone: bool, device: str) -> int:
        """Return how many of `runs` are executed at once on that device; 0: in this process."""
        if self.workers == 0 or lone and self.timeout is None and self.workers == "auto":
            return 0
        if self.workers != "auto":
            return max(1, min(self.workers, runs))
        if device == "cuda":
            per_gpu = self.runs_per_gpu if self.runs_per_gpu != "auto" else 1
            return max(1, min(runs, torch.cuda.device_count() * per_gpu))
        return max(1, min(runs, cores(), processes.room()))

    def make_executor(self, plan: Plan, display: Display) -> Executor:
        """Return the executor of the plan's runs."""
        if plan.workers == 0:
            return ThisProcess(plan.resources, self.context, display)
        devices: list[str | None] = [None] * plan.workers
        if plan.device == "cuda":
            gpus = visible_gpus()
            devices = [gpus[number % len(gpus)] for number in range(plan.workers)]
        grow = plan.device == "cuda" and self.workers == self.runs_per_gpu == "auto"
        return processes.Processes(self.context, devices, self.timeout, grow)
