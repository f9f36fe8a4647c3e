"""Launcher `slurm`: executes each run as a Slurm job, through submitit.

The command stays and polls the jobs. If it is killed its jobs go on, and the same command finds them again.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from io import StringIO
from typing import Any, ClassVar

import torch
from hydra.types import HydraContext

from runner.core import interruption
from runner.core.devices import cores
from runner.core.errors import ConfigError, DiskFull
from runner.store import lock
from runner.store.ledger import read
from runner.sweep.plan.plan import Plan
from runner.sweep.run.display import Display
from runner.sweep.run.executor import Executor, Outcome
from runner.sweep.run.work import Work
from runner.sweep.workers.forkserver import SINGLE, environment
from runner.sweep.workers.remote import CommandOrigin, RemoteRun, check_installed, check_precision, wait_until_visible

LOGS = ".submitit"  # folder of submitit's logs, in the sweep's folder
WAY_OUT = "with hydra.launcher.executor=local, or do without: hydra/launcher=local"
LOOK = 0.5  # seconds between two polls of all jobs
REQUEUES = 10_000  # at most, per job
MOST = 1000  # jobs at once: a common limit of arrays


@dataclass(frozen=True)
class Slurm:
    """Launcher on a Slurm cluster. Keys: `hydra_plugins/runner/slurm.py`. Raises `ConfigError` for invalid values."""

    fuse: ClassVar[bool] = False  # each run is its own job
    fuse_max: ClassVar[int] = 1

    context: HydraContext
    executor: str
    jobs: Any
    time: int
    gpus: Any
    cpus_per_task: Any
    mem_gb: Any
    partition: Any
    setup: list[str]
    parameters: dict[str, Any]

    def __post_init__(self) -> None:
        if self.executor not in ("slurm", "local"):
            raise ConfigError(f"hydra.launcher.executor={self.executor}: must be slurm or local")
        for key, least in (("jobs", 1), ("gpus", 0), ("cpus_per_task", 1)):
            value = getattr(self, key)
            is_valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if value != "auto" and not is_valid:
                raise ConfigError(f"hydra.launcher.{key}={value}: must be auto, or a whole number of at least {least}")
        if self.time < 1:
            raise ConfigError(f"hydra.launcher.time={self.time}: must be minutes, at least 1")
        is_memory = isinstance(self.mem_gb, int | float) and not isinstance(self.mem_gb, bool) and self.mem_gb > 0
        if self.mem_gb is not None and not is_memory:
            raise ConfigError(f"hydra.launcher.mem_gb={self.mem_gb}: must be a number above 0, or null")
        check_installed("submitit", "slurm", "slurm")
        slurm_only = [key for key in ("mem_gb", "partition", "parameters", "setup") if getattr(self, key)]
        if self.executor == "local" and slurm_only:
            raise ConfigError(f"hydra.launcher.{slurm_only[0]}: only Slurm knows it; leave it out with executor=local")
        if self.executor == "slurm" and (reason := _missing_slurm()):
            raise ConfigError(
                f"hydra/launcher=slurm: there is no Slurm here ({reason}); type this on a machine of the cluster, or "
                f"try it out {WAY_OUT}"
            )

    def count(self, runs: int, lone: bool, device: str) -> int:
        """Return how many of `runs` are executed at once on that kind of device."""
        if ":" in device:
            raise ConfigError(f"device={device}: Slurm says which GPU a run has; use device=cuda")
        most = MOST if self.executor == "slurm" else cores()
        return max(1, min(runs, most if self.jobs == "auto" else self.jobs))

    def make_executor(self, plan: Plan, display: Display) -> Executor:
        """Return the executor of the plan's runs."""
        threads = max(entry.job.threads for entry in plan.todo)
        gpus = min(1, torch.cuda.device_count()) if self.gpus == "auto" else self.gpus
        check_precision(plan, gpus)
        parameters = {
            "name": f"runner {plan.folder.name}",
            "timeout_min": self.time,
            "gpus_per_node": gpus or None,
            "cpus_per_task": threads if self.cpus_per_task == "auto" else self.cpus_per_task,
            "mem_gb": self.mem_gb,
            "slurm_partition": self.partition,
            "slurm_array_parallelism": plan.workers,
            "slurm_setup": self.setup or None,
            "slurm_additional_parameters": self.parameters or None,
        }
        return SlurmJobs(CommandOrigin.here(self.context, plan.folder), self.executor, plan.workers, parameters)


class SlurmJobs(Executor):
    """Executor of `capacity` Slurm jobs at once, queued or running. `parameters`: of submitit, for each job."""

    def __init__(self, origin: CommandOrigin, cluster: str, capacity: int, parameters: dict[str, Any]):
        import submitit

        self.capacity, self._origin, self._limit = capacity, origin, 60.0 * parameters["timeout_min"]
        # A job is requeued at each timeout, as long as it makes steps (`RemoteRun.checkpoint`).
        options = {} if cluster == "local" else {"slurm_max_num_timeout": REQUEUES}
        self._executor = submitit.AutoExecutor(origin.sweep / LOGS, cluster=cluster, **options)
        self._executor.update_parameters(**parameters)
        self._local = cluster == "local"
        self._new: list[Work] = []
        self._running: dict[Any, Work] = {}  # job -> its run
        self._polled = 0.0

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, interruption.Interrupted) and error.number != signal.SIGINT:
            return  # only the command ends, or its terminal closed: the jobs go on
        for job in self._running:
            self._cancel(job)
        if isinstance(error, KeyboardInterrupt):  # the jobs save checkpoints
            interruption.write_notice()
            deadline = time.monotonic() + interruption.PATIENCE
            while time.monotonic() < deadline and not all(job.done(force_check=True) for job in self._running):
                time.sleep(LOOK)

    def _cancel(self, job: Any) -> None:
        """Tell a job to save a checkpoint and end; Slurm kills it a little later."""
        if not self._local:
            job.cancel(check=False)
            return
        with contextlib.suppress(OSError):  # the job has ended
            os.kill(int(job.job_id), signal.SIGTERM)  # to submitit's controller process, which forwards it

    def submit(self, work: Work) -> None:
        self._new.append(work)

    def wait(self, seconds: float) -> list[Outcome]:
        # A job of an earlier command may execute a run: a second job would only find the run's lock.
        elsewhere = [work for work in self._new if lock.holder(work.job.folder) is not None]
        self._submit_jobs([work for work in self._new if work not in elsewhere])
        self._new = []
        delay = self._polled + LOOK - time.monotonic()
        if elsewhere or not self._running:
            return [Outcome(work, done=False) for work in elsewhere]
        if delay > 0:
            time.sleep(min(delay, seconds))
            return []
        self._polled = time.monotonic()
        ended = [job for job in self._running if job.done()]
        return [self._outcome(job, self._running.pop(job)) for job in ended]

    def _submit_jobs(self, works: list[Work]) -> None:
        """Submit jobs to the cluster; several at once are one job array."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not works:
            return
        try:
            # submitit prints sbatch's message and raises it too.
            with contextlib.ExitStack() as stack:
                stack.enter_context(environment(SINGLE))
                stack.enter_context(contextlib.redirect_stderr(StringIO()))
                # Ctrl-C reaches jobs of this machine, too; `__exit__` tells them instead.
                stack.enter_context(interruption.ignoring(signal.SIGINT))
                stack.enter_context(self._executor.batch())
                jobs = [self._executor.submit(RemoteRun(self._origin, work, self._limit)) for work in works]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(
                f"hydra/launcher=slurm: the cluster refused the jobs ({_last_line(str(error))}); correct "
                f"hydra.launcher. (partition, time, parameters, ...), or try the command out {WAY_OUT}"
            ) from error
        self._running |= dict(zip(jobs, works, strict=True))

    def _outcome(self, job: Any, work: Work) -> Outcome:
        from submitit.core.utils import UncompletedJobError

        try:
            if self._local and not job.paths.result_pickle.exists():  # it may appear late on a network file system
                raise UncompletedJobError(job.stderr() or "")
            result = job.result()
        except UncompletedJobError:
            record = read(work.job.folder)
            if record is not None and record.status == "running" and "stopped" in record.result:
                return Outcome(work, interrupted=True)
            state = job.state
            reason = f"its job ended without a result (state {state}, log {job.paths.stderr})"
            return Outcome(work, lost=reason, memory=state.startswith("OUT_OF_ME"))
        if isinstance(result, ConfigError | DiskFull):
            raise result
        done, stamp = result
        if done:
            wait_until_visible(work, stamp)
        return Outcome(work, done)


def _missing_slurm() -> str | None:
    """Return why Slurm cannot be used here; None if it can."""
    for command in ("srun", "sbatch", "sinfo"):
        if shutil.which(command) is None:
            return f"no {command}"
    completed = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True)
    return _last_line(completed.stderr) if completed.returncode else None


def _last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
