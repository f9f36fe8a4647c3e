"""Pruning of a search: after each epoch a run reports to the Optuna study and asks its pruner."""

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
NAME = "search"  # name of the study in its file


@dataclass(frozen=True)
class PruningRule:
    """Rule that stops runs early. `min_epochs`: of every run; `epochs`: of the longest run."""

    kind: str
    metric: str
    higher: bool
    epochs: int
    min_epochs: int
    startup_trials: int
    reduction_factor: int | None

    def build(self) -> BasePruner:
        """Return Optuna's pruner."""
        factor = {} if self.reduction_factor is None else {"reduction_factor": self.reduction_factor}
        if self.kind == "median":
            return pruners.MedianPruner(self.startup_trials, n_warmup_steps=self.min_epochs)
        if self.kind == "halving":
            return pruners.SuccessiveHalvingPruner(min_resource=self.min_epochs, **factor)
        if self.kind == "hyperband":
            return pruners.HyperbandPruner(min_resource=self.min_epochs, max_resource=self.epochs, **factor)
        return pruners.NopPruner()

    @property
    def reason(self) -> str:
        """Reason for stopping a run, as text."""
        if self.kind == "median":
            return f"{'below' if self.higher else 'above'} the median of the finished runs"
        factor = self.reduction_factor or (4 if self.kind == "halving" else 3)
        return f"not among the best of every {factor} that came so far"


@dataclass(frozen=True)
class TrialPruner(Pruner):
    """Pruner of a trial: reports each epoch to the study and asks it whether to stop, in any process."""

    url: str
    number: int
    epochs: int
    pruner: PruningRule

    def stop_reason(self, row: Mapping[str, Any], ended: bool) -> str | None:
        epoch, metric = row["epoch"], self.pruner.metric
        with full_disk():
            study, database = _open_study(self.url, self.pruner)
            frozen = study.get_trials(deepcopy=False)[self.number]
            if frozen.state.is_finished():  # by another process, which considered this one dead
                return None
            trial = get_trial(study, database, self.number)
            if epoch not in frozen.intermediate_values:  # a resumed run repeats an epoch
                trial.report(row[metric], epoch)
            if ended or not trial.should_prune():
                return None
        return f"stopped at epoch {epoch} of {self.epochs}: {metric} {row[metric]:.4g}, {self.pruner.reason}"


def open_storage(url: str) -> RDBStorage:
    """Open the study's database."""
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": PATIENCE}})


def get_trial(study: Study, database: RDBStorage, number: int) -> Trial:
    """Return the trial of that number, to report to it or to end it."""
    study_id = database.get_study_id_from_name(study.study_name)
    return Trial(study, database.get_trial_id_from_study_id_trial_number(study_id, number))


_open_studies: dict[
    tuple[str, PruningRule], tuple[Study, RDBStorage]
] = {}  # studies that this process's runs report to


def _open_study(url: str, pruner: PruningRule) -> tuple[Study, RDBStorage]:
    if (url, pruner) not in _open_studies:
        close_all()
        database = open_storage(url)
        # The sampler does not matter, because workers propose nothing.
        study = load_study(study_name=NAME, storage=database, sampler=RandomSampler(), pruner=pruner.build())
        _open_studies[url, pruner] = study, database
    return _open_studies[url, pruner]


def close_all() -> None:
    """Close the studies that this process's runs reported to."""
    while _open_studies:
        close(_open_studies.popitem()[1][1])


def close(database: RDBStorage) -> None:
    """Close the connections to a study's database."""
    database.remove_session()
    database.engine.dispose()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Raise SQLite's error of a full disk as `OSError` ENOSPC."""
    try:
        yield
    except StorageInternalError as error:
        if "disk is full" in str(error.__cause__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
