"""TrialStore: the trials of a search, in an Optuna study in the sweep's folder. Every trial is a run: its
folder holds the result, and the study holds what was proposed, in which order."""

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterator
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
from runner.sweep.search.pruner import NAME, PATIENCE, PruningRule, close, close_all, full_disk, get_trial, open_storage
from runner.sweep.search.settings import Settings
from runner.sweep.search.space import Params, Space

log = logging.getLogger(__name__)

FILE = "study.db"
RUN = "run"  # user attribute of a trial: fingerprint and threads of its run
NUMBER = "number"  # user attribute: fingerprint and number of its run, set before its folder is chosen
ENDED = "ended"  # user attribute: status and reason of its run
AGAIN = "again"  # user attribute: number of the trial that it repeats, after its run failed or was deleted
STARTUP = 10  # random trials before tpe learns


class TrialStore:
    """Trials of one folder, with the sampler that proposes them."""

    def __init__(
        self, folder: Path, search: Settings, space: Space, pruner: PruningRule, anchor: str, earlier: str | None = None
    ):
        """Open the study's file, or create it. Raises `ConfigError` if it holds another search or cannot be read.

        anchor: fingerprint of one point; it identifies what all runs share. earlier: its value in earlier versions.
        """
        self.folder, self.search, self.space = folder, search, space
        self.path = folder / FILE
        self.url = URL.create("sqlite", database=str(self.path.resolve())).render_as_string()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        definition = {"space": space.describe(), "metric": search.metric, "anchor": anchor}
        self._check_tables()
        with self._locked():
            self.storage = self._open()
            directions = ["maximize" if higher else "minimize" for higher in search.higher]
            names = [summary.study_name for summary in optuna.get_all_study_summaries(self.storage)]
            if names and names != [NAME]:
                raise ConfigError(f"{self.path}: holds studies of another program; choose another folder (name=)")
            if names:
                self._check_search(definition, definition | {"anchor": earlier})
            self.study: Study = optuna.create_study(
                study_name=NAME,
                storage=self.storage,
                directions=directions,
                pruner=pruner.build(),
                load_if_exists=True,
            )
            if "search" not in self.study.user_attrs:
                self.study.set_user_attr("search", definition)

    def close(self) -> None:
        """Close the study's file."""
        close_all()
        close(self.storage)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials except those that were repeated."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = {trial.user_attrs.get(AGAIN) for trial in trials}
        return [trial for trial in trials if trial.number not in repeated]

    def ask(self, total: int) -> tuple[Trial, Params] | None:
        """Return a new trial and its point; None if there are `total` trials."""
        with self._locked(), full_disk():
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
        """Return a trial that a dead process began, and its point. Keys not drawn yet are drawn now."""
        with self._locked(), full_disk():
            self.study.sampler = self._sampler(number)
            trial = get_trial(self.study, self.storage, number)
            return trial, self.space.draw(trial)

    def repeat(self, trial: FrozenTrial) -> None:
        """Queue a new trial of the same point in place of this one."""
        with self._locked(), full_disk():
            if trial.number in {other.number for other in self.trials()}:  # no other process has done this
                self.study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})

    def note(self, trial: Trial, fingerprint: str, threads: int) -> None:
        """Record which run a trial is."""
        with full_disk():
            trial.set_user_attr(RUN, {"fingerprint": fingerprint, "threads": threads})

    def number(self, trial: Trial, fingerprint: str, known: dict[str, int | None]) -> int:
        """Return the number of a trial's run: its known number, else the trial's, else a free one.

        known: fingerprint -> number of the folder's runs.
        """
        with self._locked(), full_disk():
            trials = self.study.get_trials(deepcopy=False)
            taken = known | dict(other.user_attrs[NUMBER] for other in trials if NUMBER in other.user_attrs)
            number = taken.get(fingerprint)
            if number is None:
                used = {number for number in taken.values() if number is not None}
                number = trial.number if trial.number not in used else max(used) + 1
            trial.set_user_attr(NUMBER, (fingerprint, number))
            return number

    def tell(self, trial: Trial, result: dict[str, Any], curve: dict[int, float]) -> None:
        """End a trial with its run's result. `curve`: epoch -> metric for the pruner."""
        with self._locked(), full_disk():
            frozen = self.study.get_trials(deepcopy=False)[trial.number]
            if frozen.state.is_finished():  # by another process
                return
            state, values = self._state_and_values(result)
            if len(self.search.metric) == 1:
                for epoch in sorted(curve.keys() - frozen.intermediate_values.keys()):
                    trial.report(curve[epoch], epoch)
            trial.set_user_attr(ENDED, {"status": result["status"], "reason": result.get("reason")})
            self.study.tell(trial, values, state)

    def add(
        self, params: Params, result: dict[str, Any], curve: dict[int, float], fingerprint: str, threads: int
    ) -> None:
        """Add a trial for a finished run that has none."""
        state, values = self._state_and_values(result)
        is_multi = len(self.search.metric) > 1
        last = [curve[max(curve)]] if curve and not is_multi else None
        trial = create_trial(
            state=state,
            values=values if state is TrialState.COMPLETE else last,
            params=params,
            distributions={dim.key: dim.distribution for dim in self.space.dimensions},
            user_attrs={
                RUN: {"fingerprint": fingerprint, "threads": threads},
                ENDED: {"status": result["status"], "reason": result.get("reason")},
            },
            intermediate_values={} if is_multi else curve,
        )
        with self._locked(), full_disk():
            runs = [other.user_attrs.get(RUN, {}) for other in self.study.get_trials(deepcopy=False)]
            if fingerprint not in {run.get("fingerprint") for run in runs}:  # no other process has done this
                self.study.add_trial(trial)

    def _state_and_values(self, result: dict[str, Any]) -> tuple[TrialState, list[float] | None]:
        """Return state and values of a trial. A diverged run counts as pruned, so that samplers avoid it."""
        values = [result.get(name) for name in self.search.metric]
        if result["status"] == "done" and None not in values:
            return TrialState.COMPLETE, values
        return (TrialState.PRUNED if result["status"] in ("pruned", "diverged") else TrialState.FAIL), None

    def _sampler(self, number: int) -> BaseSampler:
        """Return the sampler of a trial. Each trial has its own seed, so that a resumed search proposes the same."""
        seed = generator(self.search.seed, f"trial {number}").initial_seed() % 2**32
        if self.search.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=self.search.startup_trials or STARTUP, seed=seed)
        if self.search.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return samplers.RandomSampler(seed=seed)

    def _next_point(self, trials: list[FrozenTrial]) -> Params:
        """Return a random point of the grid that no trial has."""
        seen = {json.dumps(trial.params, sort_keys=True) for trial in trials}
        points = [point for point in self.space.points() if json.dumps(point, sort_keys=True) not in seen]
        return points[generator(self.search.seed, f"point {len(trials)}").initial_seed() % len(points)]

    def _open(self) -> RDBStorage:
        try:
            return open_storage(self.url)
        except DatabaseError as error:
            raise self._unreadable(error) from error

    def _check_tables(self) -> None:
        """Raise `ConfigError` for a database of another program, before Optuna creates its tables there."""
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

    def _check_search(self, definition: dict[str, Any], earlier: dict[str, Any]) -> None:
        """Raise `ConfigError` if the file holds a search other than the command's."""
        study = optuna.load_study(study_name=NAME, storage=self.storage)
        stored = study.user_attrs.get("search")
        if stored is None or stored in (definition, earlier):
            return
        fix = "choose another name=, or type that search again"
        if stored["metric"] != definition["metric"]:
            raise ConfigError(f"{self.path}: holds a search by {', '.join(stored['metric'])}; {fix}")
        for key in sorted(stored["space"].keys() | definition["space"].keys()):
            old, new = stored["space"].get(key), definition["space"].get(key)
            if old != new:
                verb = "searches" if new is None else "does not search" if old is None else "has another space for"
                raise ConfigError(f"{self.path}: holds a search that {verb} {key}; {fix}")
        raise ConfigError(f"{self.path}: holds a search with other settings, data or code beside the same space; {fix}")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the study against other commands on the same search."""
        with FileLock(self.folder / lock.GUARD):
            yield


def front(trials: list[FrozenTrial], higher: list[bool]) -> list[FrozenTrial]:
    """Return the best trials; with several metrics the Pareto front."""
    signs = [1 if more else -1 for more in higher]
    scores = {t.number: [sign * value for sign, value in zip(signs, t.values)] for t in trials if is_complete(t)}
    best = [
        number
        for number, own in scores.items()
        if not any(other != own and all(a >= b for a, b in zip(other, own)) for other in scores.values())
    ]
    return [trial for trial in trials if trial.number in best]


def is_complete(trial: FrozenTrial) -> bool:
    """Return True if a trial has values."""
    return trial.state is TrialState.COMPLETE
