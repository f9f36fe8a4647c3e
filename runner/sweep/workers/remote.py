"""What other machines need to do a sweep's runs, and how their ends are seen from here."""

import importlib.util
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import setup_globals
from hydra.types import HydraContext

from runner.core import interruption
from runner.core.errors import ConfigError, DiskFull
from runner.core.listener import Listener
from runner.store.ledger import read
from runner.sweep.plan.plan import Plan
from runner.sweep.run.work import Work, perform
from runner.task.resources import Resources

BEGAN = time.monotonic()  # this process
USED = 0.8  # of a job's time, after which a signal means that it is up, and not that another job is preferred
SIGHT = 60.0  # seconds after which a file of another machine must be seen here: network file systems keep directories


@dataclass(frozen=True)
class CommandOrigin:
    """Where a command was typed."""

    context: HydraContext
    folder: Path  # where Python was started
    path: list[str]  # where Python looks for modules
    sweep: Path  # whose runs these are

    @classmethod
    def here(cls, context: HydraContext, sweep: Path) -> "CommandOrigin":
        """This process's."""
        return cls(context, Path.cwd(), list(sys.path), sweep.absolute())

    def enter(self) -> None:
        """Makes this process, on whichever machine, like the one where the command was typed. Raises `ConfigError`
        where it does not see the sweep's folder."""
        if not self.folder.is_dir() or not self.sweep.is_dir():
            raise ConfigError(
                f"{self.sweep}: {platform.node()} does not see this folder; all machines must share a file system "
                "(docs/cluster.md)"
            )
        os.chdir(self.folder)
        sys.path.extend(path for path in self.path if path not in sys.path)


@dataclass(frozen=True)
class ResultStamp:
    """What another machine says of a run that it has done."""

    status: str
    started: str | None

    @classmethod
    def of(cls, folder: Path) -> "Said":
        """As the run's folder has it."""
        record = read(folder)
        return cls("", None) if record is None else cls(record.status, record.result.get("started"))


@dataclass
class RemoteRun:
    """A run for a process of its own, on another machine. `limit`: seconds that it may take; `advanced`: whether it
    made a step before it was interrupted."""

    origin: CommandOrigin
    work: Work
    limit: float
    advanced: bool = False

    def __call__(self) -> tuple[bool, ResultStamp] | ConfigError | DiskFull:
        """`perform`; also what stands in the run's folder then. Its refusals are returned: they travel as they are."""
        try:
            self.origin.enter()
            setup_globals()
            before = _steps(self.work)
            with interruption.listening(everything=True):
                done = perform(self.work, Resources(), self.origin.context, Listener())
                interruption.check()
        except (ConfigError, DiskFull) as error:
            return error
        except interruption.Interrupted as end:
            self.advanced = _steps(self.work) > before
            self._end(end.number)
        return done, ResultStamp.of(self.work.job.folder)

    def checkpoint(self) -> Any:
        """Return what submitit queues where the job's time was up, or another one took its place: the same, which goes
        on from the run's checkpoint. None where all its time was too little for a step."""
        from submitit.helpers import DelayedSubmission

        if not self.advanced and time.monotonic() - BEGAN > USED * self.limit:
            return None
        return DelayedSubmission(replace(self, advanced=False))

    def _end(self, number: int) -> NoReturn:
        """End this job after its run was saved; submitit's own handler, if it has one for the signal, requeues it."""
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)
        sys.exit(128 + number)


def _steps(work: Work) -> int:
    """Return after how many steps a run was interrupted, as its folder has it."""
    record = read(work.job.folder)
    stopped = None if record is None else record.result.get("stopped")
    return stopped["step"] if stopped else 0


def seen(work: Work, said: ResultStamp) -> None:
    """Waits until this machine sees the end that another has written. Raises `ConfigError` where it never does."""
    folder, deadline = work.job.folder, time.monotonic() + SIGHT
    while ResultStamp.of(folder) != said:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{folder}: another machine has written a result there that this one does not see; all machines must "
                "share a file system (docs/cluster.md)"
            )
        time.sleep(0.2)
        for path in reversed(folder.parents):
            if work.job.sweep in (path, *path.parents) and path.is_dir():
                list(path.iterdir())  # makes a network file system look again


def check_precision(plan: Plan, gpus: float) -> None:
    """Raise `ConfigError` where `precision=auto` was resolved on a machine without the GPU that the runs will have."""
    overrides = plan.entries[0].job.overrides
    typed = any(word.startswith("precision=") and word != "precision=auto" for word in overrides)
    if gpus and not typed and plan.device == "cpu" and plan.entries[0].job.config["device"] == "auto":
        raise ConfigError(
            "precision=auto: no GPU is here to resolve it for, and the runs have one (hydra.launcher.gpus); type "
            "precision=bf16 or precision=fp32"
        )


def needs(package: str, extra: str, launcher: str) -> None:
    """Raises `ConfigError` where a launcher's package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"hydra/launcher={launcher} needs {package}: pip install 'runner[{extra}]'")
