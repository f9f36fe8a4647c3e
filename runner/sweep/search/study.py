"""A search's memory: Optuna's study, in a file of the sweep's folder. Every trial is a run, whose folder says how it
ended; the study says what was proposed, and in which order."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna import Study, Trial, samplers
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import URL
from sqlalchemy.exc import DatabaseError

from runner.core.errors import ConfigError
from runner.core.seeds import generator
from runner.store import lock
from runner.sweep.search.pruner import NAME, PATIENCE, PruningRule, close, forget, full_disk, storage, trial_of
from runner.sweep.search.settings import Settings
from runner.sweep.search.space import Params, Space

log = logging.getLogger(__name__)

FILE = "study.db"
RUN = "run"  # attribute of a trial: fingerprint and threads of its run
NUMBER = "number"  # fingerprint and number of its run, given before the run's folder is looked at
ENDED = "ended"  # how its run ended
AGAIN = "again"  # the trial that it repeats, whose run failed or is gone
STARTUP = 10  # random trials before tpe learns


class TrialStore:
    """The study of one folder, and who proposes."""

    def __init__(
        self, folder: Path, search: Settings, space: Space, pruner: PruningRule, anchor: str, earlier: str | None = None
    ):
        """`anchor`: the fingerprint of one point of the space, which says what all its runs share; `earlier`: the one
        that it had in earlier versions. Makes the file where there is none. Raises `ConfigError` where it holds another
        search, or cannot be read."""
        self.folder, self.search, self.space = folder, search, space
        self.path = folder / FILE
        self.url = URL.create("sqlite", database=str(self.path.resolve())).render_as_string()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        told = {"space": space.described(), "metric": search.metric, "anchor": anchor}
        self._look()
        with self._alone():
            self.storage = self._open()
            directions = ["maximize" if higher else "minimize" for higher in search.higher]
            names = [summary.study_name for summary in optuna.get_all_study_summaries(self.storage)]
            if names and names != [NAME]:
                raise ConfigError(f"{self.path}: holds studies of another program; choose another folder (name=)")
            if names:
                self._compare(told, told | {"anchor": earlier})
            self.study: Study = optuna.create_study(
                study_name=NAME,
                storage=self.storage,
                directions=directions,
                pruner=pruner.build(),
                load_if_exists=True,
            )
            if "search" not in self.study.user_attrs:
                self.study.set_user_attr("search", told)

    def close(self) -> None:
        """Lets go of the file."""
        forget()
        close(self.storage)

    def trials(self) -> list[FrozenTrial]:
        """Those that count: all but the ones that were done again."""
        trials = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(AGAIN) for trial in trials}
        return [trial for trial in trials if trial.number not in again]

    def ask(self, total: int) -> tuple[Trial, Params] | None:
        """A new trial and where it lies; None where there are as many as are wanted."""
        with self._alone(), full_disk():
            trials = self.study.get_trials(deepcopy=False)
            if not any(trial.state is TrialState.WAITING for trial in trials):
                if len(self.trials()) >= total:
                    return None
                if self.search.sampler == "grid":
                    self.study.enqueue_trial(self._next_point(trials))
            self.study.sampler = self._sampler(len(trials))
            trial = self.study.ask()
            return trial, self.space.draw(trial)

    def resume(self, number: int) -> tuple[Trial, Params]:
        """A trial that was begun by a process which is gone, perhaps before all its keys were drawn."""
        with self._alone(), full_disk():
            self.study.sampler = self._sampler(number)
            trial = trial_of(self.study, self.storage, number)
            return trial, self.space.draw(trial)

    def repeat(self, trial: FrozenTrial) -> None:
        """Its run is to be done again, as a new trial in its place."""
        with self._alone(), full_disk():
            if trial.number in {other.number for other in self.trials()}:  # nobody else had the idea
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})

    def note(self, trial: Trial, fingerprint: str, threads: int) -> None:
        """Writes down which run a trial is."""
        with full_disk():
            trial.set_user_attr(RUN, {"fingerprint": fingerprint, "threads": threads})

    def number(self, trial: Trial, fingerprint: str, known: dict[str, int | None]) -> int:
        """Return the number of a trial's run: the trial's own, unless the run has one or another run has that.

        known: fingerprint -> number, of the folder's runs.
        """
        with self._alone(), full_disk():
            trials = self.study.get_trials(deepcopy=False)
            taken = known | dict(other.user_attrs[NUMBER] for other in trials if NUMBER in other.user_attrs)
            number = taken.get(fingerprint)
            if number is None:
                used = {number for number in taken.values() if number is not None}
                number = trial.number if trial.number not in used else max(used) + 1
            trial.set_user_attr(NUMBER, (fingerprint, number))
            return number

    def tell(self, trial: Trial, result: dict[str, Any], curve: dict[int, float]) -> None:
        """The end of a trial, from its run's result; `curve`: epoch -> value, what a pruner goes by."""
        with self._alone(), full_disk():
            now = self.study.get_trials(deepcopy=False)[trial.number]
            if now.state.is_finished():  # by another process
                return
            state, values = self._end(result)
            if len(self.search.metric) == 1:
                for epoch in sorted(curve.keys() - now.intermediate_values.keys()):
                    trial.report(curve[epoch], epoch)
            trial.set_user_attr(ENDED, {"status": result["status"], "reason": result.get("reason")})
            self.study.tell(trial, values, state)

    def add(
        self, params: Params, result: dict[str, Any], curve: dict[int, float], fingerprint: str, threads: int
    ) -> None:
        """A run that no trial of the study stands for."""
        state, values = self._end(result)
        several = len(self.search.metric) > 1
        last = [curve[max(curve)]] if curve and not several else None
        trial = create_trial(
            state=state,
            values=values if state is TrialState.COMPLETE else last,
            params=params,
            distributions={one.key: one.distribution for one in self.space.dimensions},
            user_attrs={
                RUN: {"fingerprint": fingerprint, "threads": threads},
                ENDED: {"status": result["status"], "reason": result.get("reason")},
            },
            intermediate_values={} if several else curve,
        )
        with self._alone(), full_disk():
            runs = [other.user_attrs.get(RUN, {}) for other in self.study.get_trials(deepcopy=False)]
            if fingerprint not in {run.get("fingerprint") for run in runs}:  # nobody else had the idea
                self.study.add_trial(trial)

    def _end(self, result: dict[str, Any]) -> tuple[TrialState, list[float] | None]:
        """A run that diverged says to keep away, as one that was stopped does; one that failed says nothing."""
        values = [result.get(name) for name in self.search.metric]
        if result["status"] == "done" and None not in values:
            return TrialState.COMPLETE, values
        return (TrialState.PRUNED if result["status"] in ("pruned", "diverged") else TrialState.FAIL), None

    def _sampler(self, number: int) -> BaseSampler:
        """Each trial has a seed of its own, so that a search which is stopped and goes on proposes the same."""
        seed = generator(self.search.seed, f"trial {number}").initial_seed() % 2**32
        if self.search.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=self.search.startup_trials or STARTUP, seed=seed)
        if self.search.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return samplers.RandomSampler(seed=seed)

    def _next_point(self, trials: list[FrozenTrial]) -> Params:
        """The first point of the grid that no trial has; the grid is walked in a random order."""
        seen = {json.dumps(trial.params, sort_keys=True) for trial in trials}
        points = [point for point in self.space.points() if json.dumps(point, sort_keys=True) not in seen]
        return points[generator(self.search.seed, f"point {len(trials)}").initial_seed() % len(points)]

    def _open(self) -> RDBStorage:
        try:
            return storage(self.url)
        except DatabaseError as error:
            raise self._unreadable(error) from error

    def _look(self) -> None:
        """Raises `ConfigError` for a database of another program, before Optuna makes its tables in it."""
        if not self.path.exists():
            return
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        try:
            address = f"{self.path.resolve().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, PATIENCE, uri=True)) as database:
                tables = {name for (name,) in database.execute(query)}
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error
        if tables and "studies" not in tables:
            raise ConfigError(f"{self.path}: is a database of another program; choose another folder (name=)")

    def _unreadable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.path}: cannot be read as a study ({str(error.__cause__ or error).splitlines()[0]}); move it away, "
            "and a new one counts the folder's runs in"
        )

    def _compare(self, told: dict[str, Any], earlier: dict[str, Any]) -> None:
        """Raises `ConfigError` where the file's search is not the one that was typed."""
        study = optuna.load_study(study_name=NAME, storage=self.storage)
        before = study.user_attrs.get("search")
        if before is None or before in (told, earlier):
            return
        way = "choose another name=, or type that search again"
        if before["metric"] != told["metric"]:
            raise ConfigError(f"{self.path}: holds a search by {', '.join(before['metric'])}; {way}")
        for key in sorted(before["space"].keys() | told["space"].keys()):
            old, new = before["space"].get(key), told["space"].get(key)
            if old != new:
                one = "searches" if new is None else "does not search" if old is None else "has another space for"
                raise ConfigError(f"{self.path}: holds a search that {one} {key}; {way}")
        raise ConfigError(f"{self.path}: holds a search with other settings, data or code beside the same space; {way}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two commands that work on one search ask and count one after the other."""
        with FileLock(self.folder / lock.GUARD):
            yield


def front(trials: list[FrozenTrial], higher: list[bool]) -> list[FrozenTrial]:
    """The best; with several metrics those that no other one beats in all (the Pareto front)."""
    signs = [1 if more else -1 for more in higher]
    done = {trial.number: [s * v for s, v in zip(signs, trial.values)] for trial in trials if complete(trial)}
    best = [
        number
        for number, own in done.items()
        if not any(other != own and all(o >= v for o, v in zip(other, own)) for other in done.values())
    ]
    return [trial for trial in trials if trial.number in best]


def complete(trial: FrozenTrial) -> bool:
    """Whether it has an answer."""
    return trial.state is TrialState.COMPLETE
