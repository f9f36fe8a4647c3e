"""Scheduler: submits a plan's runs to an executor and yields them as they end for good.

It handles what an executor cannot know: runs that need the training of another run, runs that another process is
executing, lost workers, and a second attempt, alone, for a run that ran out of memory.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from runner.core import interruption
from runner.core.errors import ConfigError
from runner.store import git, lock
from runner.store.files import RESULT, write_json
from runner.store.ledger import read
from runner.sweep.plan.grouping import make_slots
from runner.sweep.plan.plan import Entry, Plan, in_folder
from runner.sweep.run.display import Display
from runner.sweep.run.executor import Executor, Outcome
from runner.sweep.run.work import SharedProgram, Work, attempt_key, has_ended_meanwhile
from runner.task.job import started

log = logging.getLogger(__name__)

TICK = 0.25  # seconds between two polls
PATIENCE = 1.0  # seconds between two checks of runs that other processes are executing


class Scheduler:
    """Queue of a plan's runs: `submit` any number, `next` returns a run that has ended for good."""

    def __init__(self, plan: Plan, executor: Executor, display: Display):
        self.plan, self.executor, self.display = plan, executor, display
        first = plan.entries[0].job.config
        self._git = git.record(plan.folder, first["trust"], first["log"]["patch"])
        self._waiting: deque[Entry] = deque()
        self._active: dict[str, Entry] = {}  # fingerprint -> run that the executor has
        self._locked: dict[str, Entry] = {}  # fingerprint -> run that another process is executing
        self._out_of_memory: list[Entry] = []  # runs to repeat alone
        self._tried_alone: set[str] = set()  # fingerprints of runs that were repeated alone
        self._mates: dict[str, list[Entry]] = {}  # fingerprint -> other runs of the same process
        self._ungrouped: set[str] = set()  # fingerprints of runs that lost their process in a group
        self._ended: deque[Entry] = deque()
        self._checked = 0.0
        self.interrupted: set[str] = set()  # fingerprints of runs whose process alone was told to end

    @property
    def pending(self) -> int:
        """Number of runs submitted and not yet returned."""
        return sum(map(len, (self._waiting, self._active, self._locked, self._out_of_memory, self._ended)))

    @property
    def idle(self) -> int:
        """Number of further runs that the executor could start."""
        most = self.plan.fuse_max if self.plan.fusing == "true" else 1
        return self.executor.capacity * most - len(self._active) - len(self._waiting)

    def submit(self, entry: Entry) -> None:
        """Queue a run; does not wait."""
        self._waiting.append(entry)

    def next(self) -> Entry:
        """Wait for a run to end and return it; its result is in its folder."""
        self._submit_ready()
        while not self._ended:
            interruption.check()
            for outcome in self.executor.wait(TICK if self._active else 0):
                self._handle(outcome)
            self._check_locked()
            self._submit_ready()
            self.display.watch([*self._active.values(), *self._locked.values()])
        return self._ended.popleft()

    def all(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Submit the runs and yield each as it ends."""
        for entry in entries:
            self.submit(entry)
        while self.pending:
            yield self.next()

    # -- between submission and end -----------------------------------------------------------------------------

    def _submit_ready(self) -> None:
        while self._waiting and len(self._mates) < self.executor.capacity:
            entry = self._pop_ready()
            if entry is None:
                break
            self._start(entry, self._pop_mates(entry))
        if not self._active and not self._waiting and self._out_of_memory:
            entry = self._out_of_memory.pop(0)
            self._tried_alone.add(entry.job.fingerprint)
            self._start(entry, [])

    def _pop_ready(self) -> Entry | None:
        """Return the first run whose training no other run is doing. Runs that differ only in evaluation train once."""
        under_way = {entry.job.training for entry in (*self._active.values(), *self._locked.values())}
        for entry in self._waiting:
            if entry.job.training not in under_way:
                self._waiting.remove(entry)
                return entry
        return None

    def _pop_mates(self, entry: Entry) -> list[Entry]:
        """Return the waiting runs to train together with this one. In a search groups form from whatever runs wait."""
        plan, job = self.plan, entry.job
        if job.fingerprint in self._ungrouped or plan.fusing == "false" or not entry.program:
            return []
        group, *_ = plan.slots.get(job.fingerprint, (None,))
        if group is None and plan.fusing != "true":
            return []
        trainings = {other.job.training for other in (entry, *self._active.values(), *self._locked.values())}
        mates = []
        for candidate in self._waiting:
            same_group = plan.slots.get(candidate.job.fingerprint, (None,))[0] == group
            same_program = candidate.program == entry.program and candidate.job.threads == job.threads
            if (
                same_group
                and same_program
                and candidate.job.training not in trainings
                and candidate.job.fingerprint not in self._ungrouped
            ):
                trainings.add(candidate.job.training)
                mates.append(candidate)
        free_slots = self.executor.capacity - len(self._mates)
        mates = mates if group is not None else mates[: min(plan.fuse_max, -(-(1 + len(mates)) // free_slots)) - 1]
        for member, slot in zip((entry, *mates), make_slots([entry, *mates])):
            plan.slots.setdefault(member.job.fingerprint, ("", slot))
        for mate in mates:
            self._waiting.remove(mate)
        return mates

    def _start(self, entry: Entry, mates: list[Entry]) -> None:
        """Submit a run; the same process executes its `mates` at the same time."""
        works = tuple(map(self._make_work, mates))
        self._mates[entry.job.fingerprint] = mates
        self.executor.submit(replace(self._make_work(entry), mates=works))

    def _make_work(self, entry: Entry) -> Work:
        plan, job = self.plan, entry.job
        trained = None if plan.rerun else plan.trained.get(job.training)
        record = plan.left.get(job.fingerprint) or plan.done.get(job.fingerprint)
        job = replace(in_folder(entry, job.folder, trained).job, git=self._git)
        if job.fingerprint in self._tried_alone:
            record = read(job.folder)  # the attempt to repeat
        attempt = None if record is None else attempt_key(record)
        self._active[job.fingerprint] = entry
        self.display.begin(entry)
        program = None
        if slot := plan.slots.get(job.fingerprint):
            program = SharedProgram(entry.program, plan.folder, plan.fusing == "true", slot[1])
        return Work(job, entry.hydra, plan.rerun, attempt, program)

    def _handle(self, outcome: Outcome) -> None:
        """Handle the outcome of a run and its mates."""
        mates = self._mates.pop(outcome.work.job.fingerprint)
        if outcome.interrupted:
            for work in (outcome.work, *outcome.work.mates):
                self._leave_interrupted(work)
            return
        if outcome.lost and mates:
            log.warning("%d runs lost their process (%s): each goes on by itself", 1 + len(mates), outcome.lost)
            outcome = replace(outcome, lost="")
            self._requeue_alone(self._active[outcome.work.job.fingerprint], outcome.work)
        else:
            self._finish(outcome)
        for entry, work in zip(mates, outcome.work.mates):
            if has_ended_meanwhile(work):
                self._finish(Outcome(work))
            elif lock.holder(work.job.folder) is not None:
                self._finish(Outcome(work, done=False))
            else:
                self._requeue_alone(entry, work)

    def _leave_interrupted(self, work: Work) -> None:
        """Leave an interrupted run to the next command, unless it had ended before."""
        if has_ended_meanwhile(work):
            self._finish(Outcome(work))
        else:
            self.interrupted.add(work.job.fingerprint)
            self._ended.append(self._active.pop(work.job.fingerprint))

    def _requeue_alone(self, entry: Entry, work: Work) -> None:
        """Requeue a run to train alone, unless it has finished meanwhile."""
        if has_ended_meanwhile(work):
            self._finish(Outcome(work))
            return
        del self._active[work.job.fingerprint]
        self._ungrouped.add(work.job.fingerprint)
        self._waiting.appendleft(entry)

    def _finish(self, outcome: Outcome) -> None:
        entry = self._active.pop(outcome.work.job.fingerprint)
        job = entry.job
        if not outcome.done and not outcome.lost:
            self._locked[job.fingerprint] = entry
            return
        if outcome.lost and not self._record_loss(entry, outcome):
            self._locked[job.fingerprint] = entry
            return
        result = self.plan.result(entry)
        if result is None:
            raise ConfigError(f"{job.folder / RESULT}: vanished while the run was done; the same command does it again")
        ran_out = result["status"] == "out_of_memory"
        if ran_out and self.executor.shares and self.executor.capacity > 1 and job.fingerprint not in self._tried_alone:
            log.warning("%s ran out of memory; it is tried again when the others are done, alone", entry.label)
            self._out_of_memory.append(entry)
            return
        if result["status"] == "done":
            self.plan.trained.setdefault(job.training, job.folder)
        self._ended.append(entry)

    def _record_loss(self, entry: Entry, outcome: Outcome) -> bool:
        """Write the result of a run whose process died. Return False if another process has already resumed it."""
        job = entry.job
        with lock.Lock(job.folder) as held:
            if held is None:
                return False
            record = read(job.folder)
            device = self.plan.resources.task(job.config).device(job.config)
            result = started(replace(job, git=self._git), device) if record is None else {}
            result |= {} if record is None else record.result
            result |= {"status": "out_of_memory" if outcome.memory else "failed", "reason": outcome.lost}
            write_json(job.folder / RESULT, result)
        return True

    def _check_locked(self) -> None:
        """Requeue runs that other processes have finished or left."""
        if self._locked and not self._active:
            time.sleep(TICK)
        now = time.monotonic()
        if not self._locked or now - self._checked < PATIENCE:
            return
        self._checked = now
        for fingerprint, entry in list(self._locked.items()):
            if lock.holder(entry.job.folder) is None:
                del self._locked[fingerprint]
                self._waiting.appendleft(entry)  # whether it is done is checked under its lock
