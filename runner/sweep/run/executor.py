"""Those who do runs: this process, worker processes, a cluster. What they have in common."""

from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext

from runner.core import interruption
from runner.core.listener import Listener
from runner.report import write_report
from runner.sweep.run.work import Work, perform
from runner.task.resources import Resources


@dataclass(frozen=True)
class Ended:
    """What became of a run that was handed over."""

    work: Work
    done: bool = True  # its end, whichever, stands in its folder; False: another process is doing it
    lost: str = ""  # why the process that did it is gone, in words
    memory: bool = False  # it is gone because the machine ran out of memory
    interrupted: bool = False  # a signal asked the process to end: what it trained is saved


class Executor:
    """The base of all crews; a crew is a context manager, which ends what it began."""

    capacity: int = 1  # runs at once
    shares: bool = False  # whether runs share a device, so that one alone has more memory
    ready: bool = False  # to write a report of one seed: what that needs is loaded where it is done

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Ends what still runs."""

    def submit(self, work: Work) -> None:
        """Begins a run; at most `capacity` are under way."""
        raise NotImplementedError

    def wait(self, seconds: float) -> list[Ended]:
        """Those that ended, after at most so many seconds. Raises what is a bug of ours."""
        raise NotImplementedError

    def report(self, folder: Path) -> Path:
        """`write_report`, when all runs have ended."""
        return write_report(folder)


class ThisProcess(Executor):
    """Runs one after the other, here: a lone run, a debugger's, or a sweep with `hydra.launcher.workers=0`."""

    def __init__(self, resources: Resources, context: HydraContext, listener: Listener):
        self.resources, self.context, self.listener = resources, context, listener
        self._next: list[Work] = []

    def submit(self, work: Work) -> None:
        self._next.append(work)

    def wait(self, seconds: float) -> list[Ended]:
        interruption.check()
        done, self._next = self._next, []
        return [Ended(work, perform(work, self.resources, self.context, self.listener)) for work in done]
