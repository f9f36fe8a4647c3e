"""One run of a plan, wherever it is done: under its lock, in a Hydra job of its own."""

import os
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext

from runner.core import interruption
from runner.core.errors import ConfigError, DiskFull, disk_full
from runner.core.listener import Listener
from runner.core.startup.frames import roomy
from runner.execution.choose.group import Group
from runner.store import lock
from runner.store.files import RESULT
from runner.store.ledger import FINISHED, Record, read
from runner.store.owned import clear_run
from runner.sweep.compose.compose import Part
from runner.sweep.run.hydra_job import run_job
from runner.task.base import Job
from runner.task.resources import Resources
from runner.train.slot import Seat

FRAMES = 60  # that a run which waits inside another one puts on Python's stack, and more


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
    seat: Seat  # the run's place in that program


@roomy
def perform(work: Work, builder: Resources, context: HydraContext, listener: Listener) -> bool:
    """Does a run, and its mates; each one's end stands in its folder. False where another process is doing it right
    now.

    What another process has ended since the plan was made is not done again. Raises `DiskFull`, and what is a bug of
    ours.
    """
    if work.sharing is None:
        return _guarded(work, builder, context, listener)
    coming: deque[Work] = deque([work, *work.mates])
    done: dict[str, bool] = {}
    errors: list[Exception] = []

    def one_more() -> bool:
        """Also called by a run that is ready to train, inside of which the next one then is prepared."""
        if not coming or interruption.pending():
            return False
        one = coming.popleft()
        builder.group.seat = one.sharing.seat
        try:
            done[one.job.fingerprint] = _guarded(one, builder, context, listener)
        except Exception as error:  # not the business of the run that waits
            errors.append(error)
            coming.clear()
        return True

    sharing = work.sharing
    builder.group = Group(sharing.key, sharing.folder, sharing.must, one_more)
    deep, each = sys.getrecursionlimit(), FRAMES * (1 + len(work.mates))
    sys.setrecursionlimit(deep + each)
    try:
        while one_more():
            pass
    finally:
        builder.group = None
        sys.setrecursionlimit(deep)
    if errors:
        raise errors[0]
    interruption.check()  # some were not begun
    return done[work.job.fingerprint]


def _guarded(work: Work, builder: Resources, context: HydraContext, listener: Listener) -> bool:
    try:
        return _perform(work, builder, context, listener)
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"{work.job.folder}: {error.strerror}") from error
        raise


def _perform(work: Work, builder: Resources, context: HydraContext, listener: Listener) -> bool:
    job = work.job
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
            run_job(lambda: builder.task(job.config).execute(job, builder, held), work.hydra, job, context)
        finally:
            if not os.path.lexists(job.folder / RESULT):  # without it nobody knows whose the other files are
                clear_run(job.folder, job.fingerprint, job.files)
        return True


def done_meanwhile(work: Work) -> bool:
    """Whether a run has ended, by whomever, since the plan saw it: another attempt, or the one that went on then."""
    record = read(work.job.folder)
    if record is None or record.result["fingerprint"] != work.job.fingerprint or standing(record) == work.seen:
        return False  # the record of another run is to be replaced
    return record.status in FINISHED | {"failed", "out_of_memory"}


def standing(record: Record) -> tuple[str, str]:
    """What tells an attempt, and how far it is, from others."""
    return record.status, record.result.get("started", "")
