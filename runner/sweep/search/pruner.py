"""Who stops a run that promises nothing: what a worker does with a search's pruner, after every epoch."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna import Study, Trial, load_study, pruners
from optuna.exceptions import StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage

from runner.task.job import Pruner

PATIENCE = 60.0  # seconds to wait for other processes that write to the study
NAME = "search"  # of the study in its file


@dataclass(frozen=True)
class PruningRule:
    """Which runs are stopped. `min_epochs`: that every run is given; `epochs`: that the longest has."""

    kind: str
    metric: str
    higher: bool
    epochs: int
    min_epochs: int
    startup_trials: int
    reduction_factor: int | None

    def build(self) -> BasePruner:
        """Optuna's."""
        factor = {} if self.reduction_factor is None else {"reduction_factor": self.reduction_factor}
        if self.kind == "median":
            return pruners.MedianPruner(self.startup_trials, n_warmup_steps=self.min_epochs)
        if self.kind == "halving":
            return pruners.SuccessiveHalvingPruner(min_resource=self.min_epochs, **factor)
        if self.kind == "hyperband":
            return pruners.HyperbandPruner(min_resource=self.min_epochs, max_resource=self.epochs, **factor)
        return pruners.NopPruner()

    @property
    def words(self) -> str:
        """What it means to be stopped."""
        if self.kind == "median":
            return f"{'below' if self.higher else 'above'} the median of the finished runs"
        factor = self.reduction_factor or (4 if self.kind == "halving" else 3)
        return f"not among the best of every {factor} that came so far"


@dataclass(frozen=True)
class TrialPruner(Pruner):
    """A run's place in a search: it tells the study how it gets on, and asks the pruner, wherever it is done."""

    url: str
    number: int
    epochs: int
    pruner: PruningRule

    def stop_reason(self, row: Mapping[str, Any], ended: bool) -> str | None:
        epoch, metric = row["epoch"], self.pruner.metric
        with full_disk():
            study, where = _study(self.url, self.pruner)
            known = study.get_trials(deepcopy=False)[self.number]
            if known.state.is_finished():  # by another process, which took this one for dead
                return None
            trial = trial_of(study, where, self.number)
            if epoch not in known.intermediate_values:  # a run that is resumed does an epoch again
                trial.report(row[metric], epoch)
            if ended or not trial.should_prune():
                return None
        return f"stopped at epoch {epoch} of {self.epochs}: {metric} {row[metric]:.4g}, {self.pruner.words}"


def storage(url: str) -> RDBStorage:
    """The study's file."""
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})


def trial_of(study: Study, where: RDBStorage, number: int) -> Trial:
    """A trial that was begun, to report on or to end."""
    of = where.get_study_id_from_name(study.study_name)
    return Trial(study, where.get_trial_id_from_study_id_trial_number(of, number))


_opened: dict[tuple[str, PruningRule], tuple[Study, RDBStorage]] = {}  # what this process's runs report to


def _study(url: str, pruner: PruningRule) -> tuple[Study, RDBStorage]:
    if (url, pruner) not in _opened:
        forget()
        where = storage(url)  # a sampler of its own: a worker proposes nothing
        study = load_study(study_name=NAME, storage=where, sampler=RandomSampler(), pruner=pruner.build())
        _opened[url, pruner] = study, where
    return _opened[url, pruner]


def forget() -> None:
    """Closes the study that this process's runs reported to."""
    while _opened:
        close(_opened.popitem()[1][1])


def close(where: RDBStorage) -> None:
    """The study's file is nobody's any more."""
    where.remove_session()
    where.engine.dispose()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """SQLite's word for a full disk as the system's."""
    try:
        yield
    except StorageInternalError as error:
        if "disk is full" in str(error.__cause__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
