"""Work: a run of a plan, executed in any process under the lock of its folder, as a Hydra job."""

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.types import HydraContext

from runner.core import interruption
from runner.core.errors import ConfigError, DiskFull, is_disk_full
from runner.core.listener import Listener
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
    """Run of a plan, with all that another process needs to execute it."""

    job: Job
    hydra: Part  # Hydra's own part of its config
    rerun: bool
    attempt: tuple[str, str] | None  # `attempt_key` of the record in its folder when it was planned
    sharing: "SharedProgram | None" = None  # set if it may share a program with other runs
    mates: tuple["Work", ...] = ()  # runs that the same process executes at the same time


@dataclass(frozen=True)
class SharedProgram:
    """Program that several runs may share, and one run's slot in it."""

    key: str  # of the program, the same for all its runs
    folder: Path  # of the sweep, where decisions on sharing are kept
    forced: bool  # share it even if that is slower
    slot: Slot


def perform(work: Work, resources: Resources, context: HydraContext, listener: Listener) -> bool:
    """Execute a run and its mates. Return False if another process is executing the run now.

    The results are in the runs' folders. Runs that another process has ended since planning are skipped. Raises
    `DiskFull`, and errors that are bugs of the runner.
    """
    if work.sharing is None:
        return carry_out(_phases(work, resources, context, listener))
    group = RunGroup(work.sharing)
    try:
        for member in (work, *work.mates):
            if group.errors or interruption.pending():
                break
            group.open(member.job.fingerprint, _phases(member, resources, context, listener))
        group.train()
    except BaseException as end:  # it ends all members
        group.finish(end)
    group.finish()
    interruption.check()  # because some members may not have begun
    return group.done[work.job.fingerprint]


class RunGroup:
    """Group of runs that may share a program: all are opened, then trained together, then each is finished."""

    def __init__(self, sharing: SharedProgram):
        self._sharing = sharing
        self._waiting: list[tuple[str, Generator[ReadyJob, None, bool], ReadyJob]] = []
        self.done: dict[str, bool] = {}  # fingerprint -> what `perform` returns
        self.errors: list[Exception] = []  # each of one run; the other runs go on

    def open(self, fingerprint: str, phases: Generator[ReadyJob, None, bool]) -> None:
        """Advance a run until it is ready to train, or has ended."""
        try:
            self._waiting.append((fingerprint, phases, next(phases)))
        except StopIteration as end:
            self.done[fingerprint] = end.value
        except Exception as error:
            self.errors.append(error)

    def train(self) -> None:
        """Train all runs that are ready."""
        if self._waiting:
            self._train([ready for _, _, ready in self._waiting])

    def _train(self, members: Sequence[ReadyJob]) -> None:
        sharing = self._sharing
        with contextlib.ExitStack() as stack:
            stack.enter_context(members[0].active())
            for member in members:
                stack.enter_context(member.logging())
            errors = train_group(
                [member.training.runs for member in members], sharing.key, sharing.folder, sharing.forced
            )
        for number, error in errors.items():
            members[number].training.ended_by = error

    def finish(self, end: BaseException | None = None) -> None:
        """Advance each run to its end. Raises the first run's error after all have ended.

        end: an exception that ends all runs. A signal during this method does the same.
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
        """Advance the first waiting run to its end."""
        fingerprint, phases, ready = self._waiting.pop(0)
        while True:
            _start_clocks(ready)
            del ready  # so that its tensors are freed with their last user
            try:
                ready = next(phases)
            except StopIteration as end:
                self.done[fingerprint] = end.value
                return
            self._train([ready])  # train again, with smaller micro-batches


def _start_clocks(ready: ReadyJob) -> None:
    """Restart the runs' clocks, because the time to finish other runs is not theirs."""
    for run in ready.training.runs:
        run.restart_clock()


def _phases(
    work: Work, resources: Resources, context: HydraContext, listener: Listener
) -> Generator[ReadyJob, None, bool]:
    """Execute a run under its lock, except training: yield when it is ready to train. Return as `perform` does."""
    job = work.job if work.sharing is None else replace(work.job, slot=work.sharing.slot)
    try:
        with lock.Lock(job.folder, listener) as held:
            if not held:
                return False
            if has_ended_meanwhile(work):
                return True
            if work.rerun:
                clear_run(job.folder, job.fingerprint, job.files)
            elif (record := read(job.folder)) and record.result["fingerprint"] != job.fingerprint:
                raise ConfigError(f"{job.folder} holds another command's run; hydra.sweep.subdir must tell them apart")
            try:
                task = resources.task(job.config)
                hydra = HydraJob(work.hydra, job, context)
                yield from hydra.phases(lambda: task.phases(job, resources, held))
            finally:
                if not os.path.lexists(job.folder / RESULT):  # without it the other files belong to no known run
                    clear_run(job.folder, job.fingerprint, job.files)
            return True
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"{job.folder}: {error.strerror}") from error
        raise


def has_ended_meanwhile(work: Work) -> bool:
    """Return True if a run has ended since it was planned, in a new attempt or in one that was running then."""
    record = read(work.job.folder)
    if record is None or record.result["fingerprint"] != work.job.fingerprint or attempt_key(record) == work.attempt:
        return False  # the record of another run is replaced
    return record.status in FINISHED | {"failed", "out_of_memory"}


def attempt_key(record: Record) -> tuple[str, str]:
    """Return what identifies an attempt and its progress: status and start time."""
    return record.status, record.result.get("started", "")
