"""Runs on other machines: what they need from this one, and how this one sees their results."""

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

BEGAN = time.monotonic()  # start of this process
USED = 0.8  # share of a job's time after which a signal means timeout; before, it means preemption
SIGHT = 60.0  # seconds until another machine's file must be visible here: network file systems cache directories


@dataclass(frozen=True)
class CommandOrigin:
    """Place where a command was typed: folder, module path and sweep."""

    context: HydraContext
    folder: Path  # working directory
    path: list[str]  # sys.path
    sweep: Path  # folder of the sweep

    @classmethod
    def here(cls, context: HydraContext, sweep: Path) -> "CommandOrigin":
        """Return the origin of this process."""
        return cls(context, Path.cwd(), list(sys.path), sweep.absolute())

    def enter(self) -> None:
        """Set the working directory and module path. Raises `ConfigError` if the sweep's folder is not visible."""
        if not self.folder.is_dir() or not self.sweep.is_dir():
            raise ConfigError(
                f"{self.sweep}: {platform.node()} does not see this folder; all machines must share a file system "
                "(docs/cluster.md)"
            )
        os.chdir(self.folder)
        sys.path.extend(path for path in self.path if path not in sys.path)


@dataclass(frozen=True)
class ResultStamp:
    """Status and start time of a result, by which machines compare what they see of it."""

    status: str
    started: str | None

    @classmethod
    def of(cls, folder: Path) -> "ResultStamp":
        """Return the stamp of the result in a run's folder."""
        record = read(folder)
        return cls("", None) if record is None else cls(record.status, record.result.get("started"))


@dataclass
class RemoteRun:
    """Run for a process of another machine.

    limit: seconds of the job. advanced: the run made at least one step before it was interrupted.
    """

    origin: CommandOrigin
    work: Work
    limit: float
    advanced: bool = False

    def __call__(self) -> tuple[bool, ResultStamp] | ConfigError | DiskFull:
        """Execute the run. Return the value of `perform` and the result's stamp; or an error that the caller raises."""
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
        """Return the job for submitit to requeue after a timeout or preemption; it resumes from the checkpoint.

        None if the job's whole time was too short for a step.
        """
        from submitit.helpers import DelayedSubmission

        if not self.advanced and time.monotonic() - BEGAN > USED * self.limit:
            return None
        return DelayedSubmission(replace(self, advanced=False))

    def _end(self, number: int) -> NoReturn:
        """End this job after its run was saved. submitit's handler for the signal, if there is one, requeues it."""
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, None)
        sys.exit(128 + number)


def _steps(work: Work) -> int:
    """Return the step at which a run was interrupted, from the result in its folder."""
    record = read(work.job.folder)
    stopped = None if record is None else record.result.get("stopped")
    return stopped["step"] if stopped else 0


def wait_until_visible(work: Work, stamp: ResultStamp) -> None:
    """Wait until this machine sees the result that another wrote. Raises `ConfigError` after `SIGHT` seconds."""
    folder, deadline = work.job.folder, time.monotonic() + SIGHT
    while ResultStamp.of(folder) != stamp:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{folder}: another machine has written a result there that this one does not see; all machines must "
                "share a file system (docs/cluster.md)"
            )
        time.sleep(0.2)
        for path in reversed(folder.parents):
            if work.job.sweep in (path, *path.parents) and path.is_dir():
                list(path.iterdir())  # makes a network file system refresh its cache


def check_precision(plan: Plan, gpus: float) -> None:
    """Raise `ConfigError` if `precision=auto` was resolved here without a GPU while the runs will have one."""
    overrides = plan.entries[0].job.overrides
    typed = any(word.startswith("precision=") and word != "precision=auto" for word in overrides)
    if gpus and not typed and plan.device == "cpu" and plan.entries[0].job.config["device"] == "auto":
        raise ConfigError(
            "precision=auto: no GPU is here to resolve it for, and the runs have one (hydra.launcher.gpus); type "
            "precision=bf16 or precision=fp32"
        )


def check_installed(package: str, extra: str, launcher: str) -> None:
    """Raise `ConfigError` if a launcher's package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"hydra/launcher={launcher} needs {package}: pip install 'runner[{extra}]'")
