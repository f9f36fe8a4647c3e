"""What the sweeper `search` does: asks for a trial whenever a worker is free, and tells how its run ended."""

import contextlib
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hydra.plugins.launcher import Launcher
from optuna import Trial
from optuna.trial import TrialState

from runner.core.devices import threads
from runner.core.errors import ConfigError, DiskFull
from runner.report import write_report
from runner.store import lock
from runner.store.ledger import FINISHED, GOOD, Record, by_fingerprint, read
from runner.store.owned import check_run_folder
from runner.sweep.compose.compose import Composer
from runner.sweep.plan import grouping
from runner.sweep.plan.folder import sweep_folder
from runner.sweep.plan.known import match
from runner.sweep.plan.layout import check_disjoint, check_one_folder
from runner.sweep.plan.plan import Entry, in_folder
from runner.sweep.run.launch import make_interrupted, open_launcher
from runner.sweep.run.scheduler import Scheduler
from runner.sweep.search.display import SearchDisplay, show_space, status
from runner.sweep.search.problem import Scope, make_scope
from runner.sweep.search.pruner import TrialPruner
from runner.sweep.search.settings import EACH_EPOCH
from runner.sweep.search.space import Params
from runner.sweep.search.study import FILE, RUN, TrialStore
from runner.task.recorder import METRICS


def search(composer: Composer, launcher: Launcher, arguments: list[str]) -> None:
    """Searches a space until there are `n_trials` trials in its folder. Ends the process with 1 where some run did
    not end well; raises `ConfigError` before anything starts where something cannot work."""
    ours, scope = open_launcher(launcher), make_scope(composer, arguments)
    grouping.set_fusing(scope.plan, ours)
    first = scope.plan.entries[0].job
    if first.config["dry_run"]:
        known = Search(scope, _memory(scope) if (scope.plan.folder / FILE).exists() else None).known()
        show_space(scope, known)
        return
    with sweep_folder(scope.plan.folder, FILE), contextlib.closing(_memory(scope)) as memory:
        Search(scope, memory).run(ours)
        ends = [status(trial) for trial in memory.trials()]
    if any(end not in GOOD for end in ends):
        sys.exit(1)


def _memory(scope: Scope) -> TrialStore:
    first = scope.plan.entries[0]
    earlier = None if first.earlier is None else first.earlier[0]
    return TrialStore(scope.plan.folder, scope.settings, scope.space, scope.pruner, first.job.fingerprint, earlier)


class Search:
    """A search under way: which trial is which run."""

    def __init__(self, scope: Scope, memory: TrialStore | None):
        self.scope, self.plan, self.memory = scope, scope.plan, memory
        self.records = by_fingerprint(self.plan.folder)
        for fingerprint, record in self.records.items():
            kept = self.plan.done if record.status in FINISHED else self.plan.left
            kept[fingerprint] = record
            if record.status == "done":
                self.plan.trained[record.result["training"]] = record.folder
        self._flight: dict[str, list[Trial]] = {}  # fingerprint -> the trials that wait for its run
        self._left: set[int] = set()  # numbers of trials whose process was asked to end, and not this command

    def known(self) -> int:
        """Trials that are there, and runs that would be counted in."""
        return len(list(self._beside())) + (0 if self.memory is None else len(self.memory.trials()))

    def run(self, launcher: Any) -> None:
        """To the last trial, and the report."""
        for params, record in list(self._beside()):
            job = record.result
            self.memory.add(params, job, self._curve(record.folder), job["fingerprint"], job["threads"])
        self._repeat()
        trials = self.memory.trials()
        ended = sum(trial.state.is_finished() for trial in trials)
        left = max(self.scope.total, len(trials)) - ended
        self.plan.set_workers(launcher.count(max(1, left), False, self.plan.device), {})
        with SearchDisplay(self.scope, self.memory, ended, left) as self.display:
            try:
                if left:
                    with launcher.make_executor(self.plan, self.display) as executor:
                        self._drive(Scheduler(self.plan, executor, self.display))
            except DiskFull as full:
                raise DiskFull(f"{full}; make room, then the same command goes on") from full
            except KeyboardInterrupt as end:
                raise make_interrupted(end, self.display.left()) from end
            finally:
                if by_fingerprint(self.plan.folder):
                    self.display.report = write_report(self.plan.folder)

    # -- trials to runs -----------------------------------------------------------------------------------------

    def _drive(self, drive: Scheduler) -> None:
        self._adopt(drive, others=False)
        while True:
            while drive.idle > 0 and (asked := self.memory.ask(self.scope.total)) is not None:
                self._place(*asked, drive)
            if not drive.pending:
                self._adopt(drive, others=True)
            if not drive.pending:
                return
            self._settle(drive.next(), drive)

    def _adopt(self, drive: Scheduler, others: bool) -> None:
        """Trials that have not ended and are not ours: of a process that is gone, and in the end (`others`) those of
        one that is still at it, which are waited for."""
        mine = {trial.number for trials in self._flight.values() for trial in trials} | self._left
        for trial in self.memory.trials():
            if trial.state is not TrialState.RUNNING or trial.number in mine:
                continue
            run = trial.user_attrs.get(RUN)
            record = None if run is None else self.records.get(run["fingerprint"])
            if not others and record is not None and lock.holder(record.folder) is not None:
                continue  # of another command that is at work
            self._place(*self.memory.resume(trial.number), drive, None if run is None else run["threads"])

    def _place(self, trial: Trial, params: Params, drive: Scheduler, count: int | None = None) -> None:
        """Has the run of a trial done, unless it was done or is being done. `count`: of threads, where they are
        settled."""
        try:
            entry = self._entry(trial, params, count)
        except ConfigError as error:
            self.memory.tell(trial, {"status": "refused", "reason": str(error)}, {})
            self.display.refused(params, str(error))
            return
        job = entry.job
        self.memory.note(trial, job.fingerprint, job.threads)
        record = read(job.folder)  # another process may have done it by now
        if job.fingerprint in self._flight:
            self._flight[job.fingerprint].append(trial)
        elif record is not None and record.status in FINISHED:
            self.memory.tell(trial, record.result, self._curve(record.folder))
            self.display.copied(entry)
        else:
            self._flight[job.fingerprint] = [trial]
            drive.submit(entry)

    def _entry(self, trial: Trial, params: Params, count: int | None) -> Entry:
        entry = self.scope.entry(params, trial.number)
        check_one_folder([self.plan.folder, entry.job.sweep])
        known = {key: record.result.get("number") for key, record in self.records.items()}
        if (number := self.memory.number(trial, entry.job.fingerprint, known)) != trial.number:
            entry = entry.with_number(number)
        job = entry.job
        if matched := match(entry, self.records):
            entry, record = matched
            entry = in_folder(entry, record.folder)
        elif (there := read(job.folder)) is not None and there.result["fingerprint"] != job.fingerprint:
            raise ConfigError(f"{job.folder} holds another run; hydra.sweep.subdir must tell runs apart")
        else:
            check_disjoint(self.plan.folder, [job.folder], (record.folder for record in self.records.values()))
        check_run_folder(entry.job.folder, job.fingerprint, job.files)
        count = count or threads(job.config, entry.facts.flops, self.plan.workers)
        judge = None
        if self.scope.pruner.kind != "none":
            judge = TrialPruner(self.memory.url, trial.number, job.config["epochs"], self.scope.pruner)
        return replace(entry, job=replace(entry.job, threads=count, pruner=judge))

    def _settle(self, entry: Entry, drive: Scheduler) -> None:
        """A run has ended, and with it its trials."""
        if entry.job.fingerprint in drive.interrupted:  # the next command goes on with it
            self._left |= {trial.number for trial in self._flight.pop(entry.job.fingerprint)}
            self.display.end(entry)
            return
        record = read(entry.job.folder)
        if record is None:
            raise ConfigError(f"{entry.job.folder}: its result is gone; the same command does that run again")
        self.records[entry.job.fingerprint] = record
        first, *copies = self._flight.pop(entry.job.fingerprint)
        curve = self._curve(record.folder)
        self.memory.tell(first, record.result, curve)
        self.display.end(entry)
        for trial in copies:
            self.memory.tell(trial, record.result, curve)
            self.display.copied(entry)

    # -- runs to trials -----------------------------------------------------------------------------------------

    def _repeat(self) -> None:
        """Trials whose run failed, or whose folder is gone: the folders are what counts."""
        for trial in self.memory.trials():
            if not trial.state.is_finished() or RUN not in trial.user_attrs:
                continue
            record = self.records.get(trial.user_attrs[RUN]["fingerprint"])
            if record is None or record.status not in FINISHED:
                self.memory.repeat(trial)

    def _beside(self) -> Iterator[tuple[Params, Record]]:
        """Finished runs of the folder that lie in the space, and that no trial stands for."""
        trials = [] if self.memory is None else self.memory.study.get_trials(deepcopy=False)
        counted = {trial.user_attrs[RUN]["fingerprint"] for trial in trials if RUN in trial.user_attrs}
        for fingerprint, record in self.records.items():
            if fingerprint in counted or record.status not in FINISHED:
                continue
            params = self._located(record)
            if params is not None:
                yield params, record

    def _located(self, record: Record) -> Params | None:
        """The point of the space that a run is: if it is one, the same words make the same fingerprint."""
        try:
            config = yaml.load((record.folder / "config.yaml").read_bytes(), yaml.CSafeLoader)
            params = self.scope.space.locate(config, record.result["choices"])
            alone = {record.result["fingerprint"]: record}
            if params is None or match(self.scope.entry(params), alone) is None:
                return None
        except (OSError, yaml.YAMLError, ConfigError):  # damaged, or a combination that cannot run any more
            return None
        return params

    def _curve(self, folder: Path) -> dict[int, float]:
        """Epoch -> the metric that pruners go by."""
        metric = self.scope.settings.metric[0]
        path = folder / METRICS
        if metric not in EACH_EPOCH or not path.exists():
            return {}
        rows = csv.DictReader(path.read_text().splitlines())
        return {int(row["epoch"]): float(row[metric]) for row in rows if row[metric]}
