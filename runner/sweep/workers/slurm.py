"""The launcher `slurm`: each run a job of a cluster. The command stays and watches them; killed, it leaves them alone,
and the same command finds them."""

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
from runner.sweep.run.executor import Outcome, Executor
from runner.sweep.run.work import Work
from runner.sweep.workers.forkserver import SINGLE, environment
from runner.sweep.workers.remote import CommandOrigin, RemoteRun, check_precision, needs, seen

LOGS = ".submitit"  # in the sweep's folder
WAY_OUT = "with hydra.launcher.executor=local, or do without: hydra/launcher=local"
LOOK = 0.5  # seconds between two looks at all jobs
REQUEUES = 10_000  # of a job
MOST = 1000  # jobs at once: what clusters allow in an array, as a rule


@dataclass(frozen=True)
class Slurm:
    """Keys: see `hydra_plugins/runner/slurm.py`. Raises `ConfigError` for values that cannot be."""

    fuse: ClassVar[bool] = False  # each run is a job of its own there
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
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if value != "auto" and not whole:
                raise ConfigError(f"hydra.launcher.{key}={value}: must be auto, or a whole number of at least {least}")
        if self.time < 1:
            raise ConfigError(f"hydra.launcher.time={self.time}: must be minutes, at least 1")
        memory = isinstance(self.mem_gb, int | float) and not isinstance(self.mem_gb, bool) and self.mem_gb > 0
        if self.mem_gb is not None and not memory:
            raise ConfigError(f"hydra.launcher.mem_gb={self.mem_gb}: must be a number above 0, or null")
        needs("submitit", "slurm", "slurm")
        own = [key for key in ("mem_gb", "partition", "parameters", "setup") if getattr(self, key)]
        if self.executor == "local" and own:
            raise ConfigError(f"hydra.launcher.{own[0]}: only Slurm knows it; leave it out with executor=local")
        if self.executor == "slurm" and (why := _absent()):
            raise ConfigError(
                f"hydra/launcher=slurm: there is no Slurm here ({why}); type this on a machine of the cluster, or try "
                f"it out {WAY_OUT}"
            )

    def count(self, runs: int, lone: bool, device: str) -> int:
        """How many runs are done at once, of so many on that kind of device."""
        if ":" in device:
            raise ConfigError(f"device={device}: Slurm says which GPU a run has; use device=cuda")
        auto = MOST if self.executor == "slurm" else cores()
        return max(1, min(runs, auto if self.jobs == "auto" else self.jobs))

    def make_executor(self, plan: Plan, display: Display) -> Executor:
        """Those who do the plan's runs."""
        threads = max(entry.job.threads for entry in plan.todo)
        gpus = min(1, torch.cuda.device_count()) if self.gpus == "auto" else self.gpus
        check_precision(plan, gpus)
        asked = {
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
        return SlurmJobs(CommandOrigin.here(self.context, plan.folder), self.executor, plan.workers, asked)


class SlurmJobs(Executor):
    """`capacity` jobs at once, in the queue or running, for each of which is `asked` so much."""

    def __init__(self, origin: CommandOrigin, cluster: str, capacity: int, asked: dict[str, Any]):
        import submitit

        self.capacity, self._origin, self._limit = capacity, origin, 60.0 * asked["timeout_min"]
        # As often as its time is up: each time it has made steps (`RemoteRun.checkpoint`).
        often = {} if cluster == "local" else {"slurm_max_num_timeout": REQUEUES}
        self._executor = submitit.AutoExecutor(origin.sweep / LOGS, cluster=cluster, **often)
        self._executor.update_parameters(**asked)
        self._local = cluster == "local"
        self._new: list[Work] = []
        self._running: dict[Any, Work] = {}  # job -> its run
        self._looked = 0.0

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, interruption.Interrupted) and error.number != signal.SIGINT:
            return  # the command alone is to end, or its terminal is gone: its jobs go on
        for job in self._running:
            self._cancel(job)
        if isinstance(error, KeyboardInterrupt):  # they save their runs
            interruption.write_notice()
            deadline = time.monotonic() + interruption.PATIENCE
            while time.monotonic() < deadline and not all(job.done(force_check=True) for job in self._running):
                time.sleep(LOOK)

    def _cancel(self, job: Any) -> None:
        """Ask a job to save its run and to end; Slurm kills it a little later."""
        if not self._local:
            job.cancel(check=False)
            return
        with contextlib.suppress(OSError):  # it has ended
            os.kill(int(job.job_id), signal.SIGTERM)  # of the process that watches it, which passes it on

    def submit(self, work: Work) -> None:
        self._new.append(work)

    def wait(self, seconds: float) -> list[Outcome]:
        # Runs of an earlier command's jobs are theirs: they need no second job that would only find the lock.
        elsewhere = [work for work in self._new if lock.holder(work.job.folder) is not None]
        self._queue([work for work in self._new if work not in elsewhere])
        self._new = []
        early = self._looked + LOOK - time.monotonic()
        if elsewhere or not self._running:
            return [Outcome(work, done=False) for work in elsewhere]
        if early > 0:
            time.sleep(min(early, seconds))
            return []
        self._looked = time.monotonic()
        over = [job for job in self._running if job.done()]
        return [self._outcome(job, self._running.pop(job)) for job in over]

    def _queue(self, works: list[Work]) -> None:
        """Several at a time are one array."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if not works:
            return
        try:
            # submitit prints what sbatch says, and raises it.
            with contextlib.ExitStack() as stack:
                stack.enter_context(environment(SINGLE))
                stack.enter_context(contextlib.redirect_stderr(StringIO()))
                # A terminal's Ctrl-C goes to jobs of this machine, too: they hear of it from here.
                stack.enter_context(interruption.ignoring(signal.SIGINT))
                stack.enter_context(self._executor.batch())
                jobs = [self._executor.submit(RemoteRun(self._origin, work, self._limit)) for work in works]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(
                f"hydra/launcher=slurm: the cluster refused the jobs ({_last(str(error))}); correct hydra.launcher. "
                f"(partition, time, parameters, ...), or try the command out {WAY_OUT}"
            ) from error
        self._running |= dict(zip(jobs, works, strict=True))

    def _outcome(self, job: Any, work: Work) -> Outcome:
        from submitit.core.utils import UncompletedJobError

        try:
            if self._local and not job.paths.result_pickle.exists():  # on a network file system it may come later
                raise UncompletedJobError(job.stderr() or "")
            found = job.result()
        except UncompletedJobError:
            record = read(work.job.folder)
            if record is not None and record.status == "running" and "stopped" in record.result:
                return Outcome(work, interrupted=True)
            state = job.state
            words = f"its job ended without a result (state {state}, log {job.paths.stderr})"
            return Outcome(work, lost=words, memory=state.startswith("OUT_OF_ME"))
        if isinstance(found, ConfigError | DiskFull):
            raise found
        done, said = found
        if done:
            seen(work, said)
        return Outcome(work, done)


def _absent() -> str | None:
    """Why there is no cluster to ask, if there is none."""
    for command in ("srun", "sbatch", "sinfo"):
        if shutil.which(command) is None:
            return f"no {command}"
    asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True)
    return _last(asked.stderr) if asked.returncode else None


def _last(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
