"""Sweeper `search`: starts a trial whenever a worker is free, and reports its result to the study."""

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
    """Search a space until its folder holds `n_trials` trials.

    Exits with code 1 if a run did not end well. Raises `ConfigError` before any run starts if the search is invalid.
    """
    plan_launcher, scope = open_launcher(launcher), make_scope(composer, arguments)
    grouping.set_fusing(scope.plan, plan_launcher)
    first = scope.plan.entries[0].job
    if first.config["dry_run"]:
        known = Search(scope, _open_store(scope) if (scope.plan.folder / FILE).exists() else None).known()
        show_space(scope, known)
        return
    with sweep_folder(scope.plan.folder, FILE), contextlib.closing(_open_store(scope)) as store:
        Search(scope, store).run(plan_launcher)
        statuses = [status(trial) for trial in store.trials()]
    if any(word not in GOOD for word in statuses):
        sys.exit(1)


def _open_store(scope: Scope) -> TrialStore:
    first = scope.plan.entries[0]
    earlier = None if first.earlier is None else first.earlier[0]
    return TrialStore(scope.plan.folder, scope.settings, scope.space, scope.pruner, first.job.fingerprint, earlier)


class Search:
    """Search in progress: matches trials and runs."""

    def __init__(self, scope: Scope, store: TrialStore | None):
        self.scope, self.plan, self.store = scope, scope.plan, store
        self.records = by_fingerprint(self.plan.folder)
        for fingerprint, record in self.records.items():
            kept = self.plan.done if record.status in FINISHED else self.plan.left
            kept[fingerprint] = record
            if record.status == "done":
                self.plan.trained[record.result["training"]] = record.folder
        self._in_flight: dict[str, list[Trial]] = {}  # fingerprint -> trials that wait for the run
        self._interrupted: set[int] = set()  # numbers of trials whose process alone was told to end

    def known(self) -> int:
        """Return the number of trials in the study and of finished runs to add as trials."""
        return len(list(self._untracked())) + (0 if self.store is None else len(self.store.trials()))

    def run(self, launcher: Any) -> None:
        """Execute the search to its last trial and write the report."""
        for params, record in list(self._untracked()):
            result = record.result
            self.store.add(params, result, self._curve(record.folder), result["fingerprint"], result["threads"])
        self._repeat()
        trials = self.store.trials()
        ended = sum(trial.state.is_finished() for trial in trials)
        left = max(self.scope.total, len(trials)) - ended
        self.plan.set_workers(launcher.count(max(1, left), False, self.plan.device), {})
        with SearchDisplay(self.scope, self.store, ended, left) as self.display:
            try:
                if left:
                    with launcher.make_executor(self.plan, self.display) as executor:
                        self._drive(Scheduler(self.plan, executor, self.display))
            except DiskFull as full:
                raise DiskFull(f"{full}; make room, then the same command goes on") from full
            except KeyboardInterrupt as end:
                raise make_interrupted(end, self.display.describe_remaining()) from end
            finally:
                if by_fingerprint(self.plan.folder):
                    self.display.report = write_report(self.plan.folder)

    # -- trials to runs -----------------------------------------------------------------------------------------

    def _drive(self, scheduler: Scheduler) -> None:
        self._adopt(scheduler, others=False)
        while True:
            while scheduler.idle > 0 and (trial_and_point := self.store.ask(self.scope.total)) is not None:
                self._submit(*trial_and_point, scheduler)
            if not scheduler.pending:
                self._adopt(scheduler, others=True)
            if not scheduler.pending:
                return
            self._end_trials(scheduler.next(), scheduler)

    def _adopt(self, scheduler: Scheduler, others: bool) -> None:
        """Adopt unfinished trials of dead processes; with `others` also those of live ones, to wait for them."""
        own = {trial.number for trials in self._in_flight.values() for trial in trials} | self._interrupted
        for trial in self.store.trials():
            if trial.state is not TrialState.RUNNING or trial.number in own:
                continue
            run = trial.user_attrs.get(RUN)
            record = None if run is None else self.records.get(run["fingerprint"])
            if not others and record is not None and lock.holder(record.folder) is not None:
                continue  # another command is executing it
            self._submit(*self.store.resume(trial.number), scheduler, None if run is None else run["threads"])

    def _submit(self, trial: Trial, params: Params, scheduler: Scheduler, count: int | None = None) -> None:
        """Submit the run of a trial, unless it is done or under way. `count`: number of threads, if fixed earlier."""
        try:
            entry = self._make_entry(trial, params, count)
        except ConfigError as error:
            self.store.tell(trial, {"status": "refused", "reason": str(error)}, {})
            self.display.show_refused(params, str(error))
            return
        job = entry.job
        self.store.note(trial, job.fingerprint, job.threads)
        record = read(job.folder)  # another process may have finished it meanwhile
        if job.fingerprint in self._in_flight:
            self._in_flight[job.fingerprint].append(trial)
        elif record is not None and record.status in FINISHED:
            self.store.tell(trial, record.result, self._curve(record.folder))
            self.display.show_copied(entry)
        else:
            self._in_flight[job.fingerprint] = [trial]
            scheduler.submit(entry)

    def _make_entry(self, trial: Trial, params: Params, count: int | None) -> Entry:
        entry = self.scope.entry(params, trial.number)
        check_one_folder([self.plan.folder, entry.job.sweep])
        numbers = {key: record.result.get("number") for key, record in self.records.items()}
        if (number := self.store.number(trial, entry.job.fingerprint, numbers)) != trial.number:
            entry = entry.with_number(number)
        job = entry.job
        if matched := match(entry, self.records):
            entry, record = matched
            entry = in_folder(entry, record.folder)
        elif (other := read(job.folder)) is not None and other.result["fingerprint"] != job.fingerprint:
            raise ConfigError(f"{job.folder} holds another run; hydra.sweep.subdir must tell runs apart")
        else:
            check_disjoint(self.plan.folder, [job.folder], (record.folder for record in self.records.values()))
        check_run_folder(entry.job.folder, job.fingerprint, job.files)
        count = count or threads(job.config, entry.facts.flops, self.plan.workers)
        pruner = None
        if self.scope.pruner.kind != "none":
            pruner = TrialPruner(self.store.url, trial.number, job.config["epochs"], self.scope.pruner)
        return replace(entry, job=replace(entry.job, threads=count, pruner=pruner))

    def _end_trials(self, entry: Entry, scheduler: Scheduler) -> None:
        """End the trials of a run that has ended."""
        if entry.job.fingerprint in scheduler.interrupted:  # the next command resumes it
            self._interrupted |= {trial.number for trial in self._in_flight.pop(entry.job.fingerprint)}
            self.display.end(entry)
            return
        record = read(entry.job.folder)
        if record is None:
            raise ConfigError(f"{entry.job.folder}: its result is gone; the same command does that run again")
        self.records[entry.job.fingerprint] = record
        first, *copies = self._in_flight.pop(entry.job.fingerprint)
        curve = self._curve(record.folder)
        self.store.tell(first, record.result, curve)
        self.display.end(entry)
        for trial in copies:
            self.store.tell(trial, record.result, curve)
            self.display.show_copied(entry)

    # -- runs to trials -----------------------------------------------------------------------------------------

    def _repeat(self) -> None:
        """Repeat trials if their run failed or its folder was deleted: the folders decide, not the study."""
        for trial in self.store.trials():
            if not trial.state.is_finished() or RUN not in trial.user_attrs:
                continue
            record = self.records.get(trial.user_attrs[RUN]["fingerprint"])
            if record is None or record.status not in FINISHED:
                self.store.repeat(trial)

    def _untracked(self) -> Iterator[tuple[Params, Record]]:
        """Yield finished runs of the folder that lie in the space and have no trial."""
        trials = [] if self.store is None else self.store.study.get_trials(deepcopy=False)
        counted = {trial.user_attrs[RUN]["fingerprint"] for trial in trials if RUN in trial.user_attrs}
        for fingerprint, record in self.records.items():
            if fingerprint in counted or record.status not in FINISHED:
                continue
            params = self._locate(record)
            if params is not None:
                yield params, record

    def _locate(self, record: Record) -> Params | None:
        """Return the point of a run, if the overrides of that point give the run's fingerprint; else None."""
        try:
            config = yaml.load((record.folder / "config.yaml").read_bytes(), yaml.CSafeLoader)
            params = self.scope.space.locate(config, record.result["choices"])
            alone = {record.result["fingerprint"]: record}
            if params is None or match(self.scope.entry(params), alone) is None:
                return None
        except (OSError, yaml.YAMLError, ConfigError):  # a damaged file, or a combination that is now invalid
            return None
        return params

    def _curve(self, folder: Path) -> dict[int, float]:
        """Return epoch -> metric for the pruner."""
        metric = self.scope.settings.metric[0]
        path = folder / METRICS
        if metric not in EACH_EPOCH or not path.exists():
            return {}
        rows = csv.DictReader(path.read_text().splitlines())
        return {int(row["epoch"]): float(row[metric]) for row in rows if row[metric]}
