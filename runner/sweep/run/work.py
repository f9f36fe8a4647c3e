"""One run of a plan, wherever it is done: under its lock, in a Hydra job of its own."""

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.types import HydraContext

from runner.core import interruption
from runner.core.errors import ConfigError, DiskFull, disk_full
from runner.core.listener import Listener
from runner.core.startup.frames import roomy
from runner.execution.choose.group import train_group
from runner.store import lock
from runner.store.files import RESULT
from runner.store.ledger import FINISHED, Record, read
from runner.store.owned import clear_run
from runner.sweep.compose.compose import Part
from runner.sweep.run.hydra_job import HydraJob
from runner.task.job import Job
from runner.task.phases import ReadyJob, carry_out
from runner.task.resources import Resources
from runner.train.slot import Slot


@dataclass(frozen=True)
class Work:
    """A run and all that another process needs to do it."""

    job: Job
    hydra: Part  # Hydra's own part of its config
    rerun: bool
    seen: tuple[str, str] | None  # status of the attempt that stood in the folder as it was planned, and when it began
    sharing: "Sharing | None" = None  # where it may share a program with others
    mates: tuple["Work", ...] = ()  # that are done at the same time by the same process


@dataclass(frozen=True)
class Sharing:
    """What runs that may share a program know of it."""

    key: str  # of the program
    folder: Path  # of the sweep, where it stands whether that pays
    must: bool  # whether it pays or not
    seat: Slot  # the run's place in that program


@roomy
def perform(work: Work, resources: Resources, context: HydraContext, listener: Listener) -> bool:
    """Do a run, and its mates; each one's end stands in its folder. Return False where another process is doing it
    right now.

    What another process has ended since the plan was made is not done again. Raises `DiskFull`, and what is a bug of
    ours.
    """
    if work.sharing is None:
        return carry_out(_phases(work, resources, context, listener))
    members = Members(work.sharing)
    try:
        for one in (work, *work.mates):
            if members.errors or interruption.pending():
                break
            members.open(one.job.fingerprint, _phases(one, resources, context, listener))
        members.train()
    except BaseException as end:  # it is all of theirs
        members.finish(end)
    members.finish()
    interruption.check()  # some were not begun
    return members.done[work.job.fingerprint]


class Members:
    """Runs that may share a program: all are opened, then trained together, then each is finished."""

    def __init__(self, sharing: Sharing):
        self._sharing = sharing
        self._waiting: list[tuple[str, Generator[ReadyJob, None, bool], ReadyJob]] = []
        self.done: dict[str, bool] = {}  # fingerprint -> what `perform` returns
        self.errors: list[Exception] = []  # of one run, and not the business of the others

    def open(self, fingerprint: str, phases: Generator[ReadyJob, None, bool]) -> None:
        """Go on with a run until it is ready to train, or has ended."""
        try:
            self._waiting.append((fingerprint, phases, next(phases)))
        except StopIteration as end:
            self.done[fingerprint] = end.value
        except Exception as error:
            self.errors.append(error)

    def train(self) -> None:
        """Train all that are ready."""
        if self._waiting:
            self._train([ready for _, _, ready in self._waiting])

    def _train(self, members: Sequence[ReadyJob]) -> None:
        sharing = self._sharing
        with contextlib.ExitStack() as stack:
            stack.enter_context(members[0].active())
            for member in members:
                stack.enter_context(member.logging())
            ends = train_group([one.training.runs for one in members], sharing.key, sharing.folder, sharing.must)
        for number, error in ends.items():
            members[number].training.ended_by = error

    def finish(self, end: BaseException | None = None) -> None:
        """Go on with each run to its end. Raises what ended one, when all have ended.

        end: ends them all, as a signal does that comes while one is finished.
        """
        while self._waiting:
            if end is not None:
                self._waiting[0][-1].training.ended_by = end
            try:
                self._finish_next()
            except Exception as error:
                self.errors.append(error)
            except BaseException as error:
                end = error
        if end is not None:
            raise end
        if self.errors:
            raise self.errors[0]

    def _finish_next(self) -> None:
        """Go on with the first run that waits, to its end."""
        fingerprint, phases, ready = self._waiting.pop(0)
        while True:
            _start_clocks(ready)
            del ready  # what it has is freed with its last user
            try:
                ready = next(phases)
            except StopIteration as end:
                self.done[fingerprint] = end.value
                return
            self._train([ready])  # once more, with the batch in smaller pieces


def _start_clocks(ready: ReadyJob) -> None:
    """The time in which others were finished is not these runs'."""
    for run in ready.training.runs:
        run.restart_clock()


def _phases(
    work: Work, resources: Resources, context: HydraContext, listener: Listener
) -> Generator[ReadyJob, None, bool]:
    """Do a run under its lock, but for the training: yield when it is ready for it. Return as `perform` does."""
    job = work.job if work.sharing is None else replace(work.job, slot=work.sharing.seat)
    try:
        with lock.Lock(job.folder, listener) as held:
            if not held:
                return False
            if done_meanwhile(work):
                return True
            if work.rerun:
                clear_run(job.folder, job.fingerprint, job.files)
            elif (there := read(job.folder)) and there.result["fingerprint"] != job.fingerprint:
                raise ConfigError(f"{job.folder} holds another command's run; hydra.sweep.subdir must tell them apart")
            try:
                task = resources.task(job.config)
                hydra = HydraJob(work.hydra, job, context)
                yield from hydra.phases(lambda: task.phases(job, resources, held))
            finally:
                if not os.path.lexists(job.folder / RESULT):  # without it nobody knows whose the other files are
                    clear_run(job.folder, job.fingerprint, job.files)
            return True
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"{job.folder}: {error.strerror}") from error
        raise


def done_meanwhile(work: Work) -> bool:
    """Whether a run has ended, by whomever, since the plan saw it: another attempt, or the one that went on then."""
    record = read(work.job.folder)
    if record is None or record.result["fingerprint"] != work.job.fingerprint or standing(record) == work.seen:
        return False  # the record of another run is to be replaced
    return record.status in FINISHED | {"failed", "out_of_memory"}


def standing(record: Record) -> tuple[str, str]:
    """What tells an attempt, and how far it is, from others."""
    return record.status, record.result.get("started", "")
