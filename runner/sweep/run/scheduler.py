"""Hands a plan's runs to a crew, and takes them back when they have ended for good.

What a crew cannot know is settled here: runs that wait for another's training, runs that another process is doing,
lost workers, a second try alone for a run that had too little memory.
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
from runner.sweep.run.executor import Ended, Executor
from runner.sweep.run.work import Sharing, Work, done_meanwhile, standing
from runner.task.job import started

log = logging.getLogger(__name__)

TICK = 0.25  # seconds between two looks at what is going on
PATIENCE = 1.0  # seconds between two looks at a run that another process is doing


class Scheduler:
    """Runs of a plan on a crew: `submit` as many as you like, `next` gives one that has ended for good."""

    def __init__(self, plan: Plan, crew: Executor, display: Display):
        self.plan, self.crew, self.display = plan, crew, display
        first = plan.entries[0].job.config
        self._git = git.record(plan.folder, first["trust"], first["log"]["patch"])
        self._waiting: deque[Entry] = deque()
        self._active: dict[str, Entry] = {}  # fingerprint -> a run that the crew has
        self._held: dict[str, Entry] = {}  # that another process is doing
        self._poor: list[Entry] = []  # that had too little memory beside others
        self._alone: set[str] = set()  # those that have been tried alone
        self._mates: dict[str, list[Entry]] = {}  # fingerprint -> the runs that its process does at the same time
        self._apart: set[str] = set()  # those that lost a process together with others
        self._ended: deque[Entry] = deque()
        self._looked = 0.0
        self.interrupted: set[str] = set()  # those whose process was asked to end, and not this command

    @property
    def pending(self) -> int:
        """Runs that were submitted and have not been given back."""
        return sum(map(len, (self._waiting, self._active, self._held, self._poor, self._ended)))

    @property
    def idle(self) -> int:
        """Runs that the crew could begin beside those that it has been given."""
        most = self.plan.fuse_max if self.plan.fusing == "true" else 1
        return self.crew.capacity * most - len(self._active) - len(self._waiting)

    def submit(self, entry: Entry) -> None:
        """Does not wait."""
        self._waiting.append(entry)

    def next(self) -> Entry:
        """Waits for a run to end; its end stands in its folder."""
        self._hand_over()
        while not self._ended:
            interruption.check()
            for ended in self.crew.wait(TICK if self._active else 0):
                self._settle(ended)
            self._look_at_held()
            self._hand_over()
            self.display.watch([*self._active.values(), *self._held.values()])
        return self._ended.popleft()

    def all(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Every one of these, as they end."""
        for entry in entries:
            self.submit(entry)
        while self.pending:
            yield self.next()

    # -- what happens in between --------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        while self._waiting and len(self._mates) < self.crew.capacity:
            entry = self._ready()
            if entry is None:
                break
            self._begin(entry, self._company(entry))
        if not self._active and not self._waiting and self._poor:
            entry = self._poor.pop(0)
            self._alone.add(entry.job.fingerprint)
            self._begin(entry, [])

    def _ready(self) -> Entry | None:
        """The first that does not wait for another's training: runs that differ in how they are tested train once."""
        under_way = {entry.job.training for entry in (*self._active.values(), *self._held.values())}
        for entry in self._waiting:
            if entry.job.training not in under_way:
                self._waiting.remove(entry)
                return entry
        return None

    def _company(self, entry: Entry) -> list[Entry]:
        """Those that wait and are to be trained with this one; of a search, whose plan is open, those that may be."""
        plan, job = self.plan, entry.job
        if job.fingerprint in self._apart or plan.fusing == "false" or not entry.program:
            return []
        group, *_ = plan.slots.get(job.fingerprint, (None,))
        if group is None and plan.fusing != "true":
            return []
        trainings = {other.job.training for other in (entry, *self._active.values(), *self._held.values())}
        found = []
        for other in self._waiting:
            same = plan.slots.get(other.job.fingerprint, (None,))[0] == group
            alike = other.program == entry.program and other.job.threads == job.threads
            if same and alike and other.job.training not in trainings and other.job.fingerprint not in self._apart:
                trainings.add(other.job.training)
                found.append(other)
        free = self.crew.capacity - len(self._mates)
        found = found if group is not None else found[: min(plan.fuse_max, -(-(1 + len(found)) // free)) - 1]
        for other, seat in zip((entry, *found), make_slots([entry, *found])):
            plan.slots.setdefault(other.job.fingerprint, ("", seat))
        for other in found:
            self._waiting.remove(other)
        return found

    def _begin(self, entry: Entry, company: list[Entry]) -> None:
        """`company`: runs that the same process does at the same time."""
        mates = tuple(map(self._work, company))
        self._mates[entry.job.fingerprint] = company
        self.crew.submit(replace(self._work(entry), mates=mates))

    def _work(self, entry: Entry) -> Work:
        plan, job = self.plan, entry.job
        trained = None if plan.rerun else plan.trained.get(job.training)
        seen = plan.left.get(job.fingerprint) or plan.done.get(job.fingerprint)
        job = replace(in_folder(entry, job.folder, trained).job, git=self._git)
        if job.fingerprint in self._alone:
            seen = read(job.folder)  # the attempt that is to be repeated
        began = None if seen is None else standing(seen)
        self._active[job.fingerprint] = entry
        self.display.begin(entry)
        sharing = None
        if place := plan.slots.get(job.fingerprint):
            sharing = Sharing(entry.program, plan.folder, plan.fusing == "true", place[1])
        return Work(job, entry.hydra, plan.rerun, began, sharing)

    def _settle(self, ended: Ended) -> None:
        """What a crew gave back: a run, with its mates."""
        company = self._mates.pop(ended.work.job.fingerprint)
        if ended.interrupted:
            for work in (ended.work, *ended.work.mates):
                self._settle_interrupted(work)
            return
        if ended.lost and company:
            log.warning("%d runs lost their process (%s): each goes on by itself", 1 + len(company), ended.lost)
            ended = replace(ended, lost="")
            self._again(self._active[ended.work.job.fingerprint], ended.work)
        else:
            self._settle_one(ended)
        for entry, work in zip(company, ended.work.mates):
            if done_meanwhile(work):
                self._settle_one(Ended(work))
            elif lock.holder(work.job.folder) is not None:
                self._settle_one(Ended(work, done=False))
            else:
                self._again(entry, work)

    def _settle_interrupted(self, work: Work) -> None:
        """Leave a run whose process was asked to end for the next command, unless it had ended before."""
        if done_meanwhile(work):
            self._settle_one(Ended(work))
        else:
            self.interrupted.add(work.job.fingerprint)
            self._ended.append(self._active.pop(work.job.fingerprint))

    def _again(self, entry: Entry, work: Work) -> None:
        """Does a run without company, unless it has ended in spite of all."""
        if done_meanwhile(work):
            self._settle_one(Ended(work))
            return
        del self._active[work.job.fingerprint]
        self._apart.add(work.job.fingerprint)
        self._waiting.appendleft(entry)

    def _settle_one(self, ended: Ended) -> None:
        entry = self._active.pop(ended.work.job.fingerprint)
        job = entry.job
        if not ended.done and not ended.lost:
            self._held[job.fingerprint] = entry
            return
        if ended.lost and not self._marked(entry, ended):
            self._held[job.fingerprint] = entry
            return
        result = self.plan.result(entry)
        if result is None:
            raise ConfigError(f"{job.folder / RESULT}: vanished while the run was done; the same command does it again")
        memory = result["status"] == "out_of_memory"
        if memory and self.crew.shares and self.crew.capacity > 1 and job.fingerprint not in self._alone:
            log.warning("%s ran out of memory; it is tried again when the others are done, alone", entry.label)
            self._poor.append(entry)
            return
        if result["status"] == "done":
            self.plan.trained.setdefault(job.training, job.folder)
        self._ended.append(entry)

    def _marked(self, entry: Entry, ended: Ended) -> bool:
        """Writes the end of a run whose process could not; False where another process went on with it already."""
        job = entry.job
        with lock.Lock(job.folder) as held:
            if held is None:
                return False
            record = read(job.folder)
            device = self.plan.resources.task(job.config).device(job.config)
            known = started(replace(job, git=self._git), device) if record is None else {}
            known |= {} if record is None else record.result
            known |= {"status": "out_of_memory" if ended.memory else "failed", "reason": ended.lost}
            write_json(job.folder / RESULT, known)
        return True

    def _look_at_held(self) -> None:
        """Runs of other processes: those that have ended are ours to show, those that were left are ours to do."""
        if self._held and not self._active:
            time.sleep(TICK)
        now = time.monotonic()
        if not self._held or now - self._looked < PATIENCE:
            return
        self._looked = now
        for fingerprint, entry in list(self._held.items()):
            if lock.holder(entry.job.folder) is None:
                del self._held[fingerprint]
                self._waiting.appendleft(entry)  # who gets its lock sees whether it is done
