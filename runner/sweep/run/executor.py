"""Executor: executes runs in this process, in worker processes or on a cluster."""

from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext

from runner.core import interruption
from runner.core.listener import Listener
from runner.report import write_report
from runner.sweep.run.work import Work, perform
from runner.task.resources import Resources


@dataclass(frozen=True)
class Outcome:
    """Outcome of a submitted run."""

    work: Work
    done: bool = True  # its result is in its folder, whatever the status; False: another process is executing it
    lost: str = ""  # why its process died, in words
    memory: bool = False  # its process died because the machine ran out of memory
    interrupted: bool = False  # a signal ended the process, after it saved a checkpoint


class Executor:
    """Base class of executors. An executor is a context manager that ends the processes it started."""

    capacity: int = 1  # number of runs at once
    shares: bool = False  # runs share a device, so that a run alone has more memory
    ready: bool = False  # its workers have loaded what a report of one seed needs

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the runs that are still under way."""

    def submit(self, work: Work) -> None:
        """Start a run. At most `capacity` runs are under way."""
        raise NotImplementedError

    def wait(self, seconds: float) -> list[Outcome]:
        """Return the runs that ended, after at most `seconds`. Raises errors that are bugs of the runner."""
        raise NotImplementedError

    def report(self, folder: Path) -> Path:
        """Write the report of a sweep's folder, after all runs have ended."""
        return write_report(folder)


class ThisProcess(Executor):
    """Executes runs one by one in this process: a lone run, or a sweep with `hydra.launcher.workers=0`."""

    def __init__(self, resources: Resources, context: HydraContext, listener: Listener):
        self.resources, self.context, self.listener = resources, context, listener
        self._submitted: list[Work] = []

    def submit(self, work: Work) -> None:
        self._submitted.append(work)

    def wait(self, seconds: float) -> list[Outcome]:
        interruption.check()
        works, self._submitted = self._submitted, []
        return [Outcome(work, perform(work, self.resources, self.context, self.listener)) for work in works]
