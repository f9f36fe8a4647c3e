"""`task=train`: train one run, from config to result."""

import contextlib
import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from runner.core import interruption, memory
from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.text import shown
from runner.task.base import Task, process_settings
from runner.task.job import Job
from runner.task.phases import TaskParts
from runner.task.resources import Resources
from runner.task.session import Session
from runner.task.torchrun import leading
from runner.task.training import Training
from runner.train.progress import Diverged
from runner.train.state import TrainState

log = logging.getLogger(__name__)


# key -> (group, key and value with which it has no effect)
WITHOUT_EFFECT = {
    "early_stopping.metric": ("early_stopping", "patience", None),
    "early_stopping.min_delta": ("early_stopping", "patience", None),
    "checkpoint.metric": ("checkpoint", "select", "last"),
    "transfer.pretrained_lr_scale": ("transfer", "weights", None),
    "transfer.frozen_norm": ("transfer", "freeze_depth", 0),
}


class Train(Task):
    """Train, validate, and test once."""

    together: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    replays: ClassVar[bool] = True
    ignores: ClassVar[frozenset[str]] = frozenset({"surface"})
    refuses: ClassVar[frozenset[str]] = frozenset({"surface"})
    columns: ClassVar[Mapping[str, str]] = {
        "val accuracy": "val_accuracy",
        "test accuracy": "test_accuracy",
        "val loss": "val_loss",
        "epochs": "epochs",
    }

    def complete(self, config: dict[str, Any], typed: list[str]) -> dict[str, Any]:
        """Return the config; warn of typed keys without effect.

        Raises `ConfigError` for a typed `checkpoint.metric` that `checkpoint.select=auto` does not use.
        """
        keys = {word.partition("=")[0].lstrip("+"): word for word in typed}
        for key in keys.keys() & WITHOUT_EFFECT.keys():
            group, switch, off = WITHOUT_EFFECT[key]
            if config[group].get(switch, key) == off:
                _warn_once(f"{keys[key]}: has no effect with {group}.{switch}={shown(off)}")
        if (word := keys.get("checkpoint.metric")) and config["checkpoint"]["select"] == "auto":
            raise ConfigError(
                f"{word}: checkpoint.select=auto takes the last epoch or that of the lowest validation loss; add "
                "checkpoint.select=best, or leave it out"
            )
        return config

    def work(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> TaskParts:
        """Train or resume; if torchrun started several processes, together with the others."""
        with leading(job, device):
            yield from self._attempts(job, resources, listener, device)

    def follow(self, job: Job, resources: Resources, device: torch.device) -> None:
        """Train along with the first process."""
        silent = {"probe": {"every": 0, "curvature_every": 0}}  # only the first process measures
        with process_settings(job.config, job.threads), contextlib.suppress(Diverged):
            Training(replace(job, config=job.config | silent), resources, device).train()
            interruption.check()

    def _attempts(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> TaskParts:
        """Train or resume; after an out-of-memory error, again with twice the micro-batches.

        Parts of the result that were yielded before an error remain.
        """
        while True:
            session = None
            try:
                with Session(job, resources, device, listener) as session:
                    yield session.facts()
                    try:
                        yield from session.outcome()
                    finally:
                        yield session.reached()
                return
            except Exception as error:
                if session is None or not memory.is_out_of_memory(error):
                    raise
                pieces, refusal = more_pieces(job.config, session.run)
                if refusal:
                    log.warning("out of memory; %s", refusal)
                    raise
            log.warning("out of memory: each batch of %d goes through in %d pieces now", *pieces)
            job = replace(job, config=job.config | {"accumulate": pieces[1]})
            del session
            memory.free(device)
            yield {"accumulate": pieces[1]}


def more_pieces(config: dict[str, Any], run: TrainState) -> tuple[tuple[int, int], str]:
    """Return (batch size, doubled number of micro-batches), and the reason against it or an empty string."""
    pieces = run.batch_size, 2 * run.accumulate
    if pieces[1] > run.batch_size:
        return pieces, f"a micro-batch is {run.batch_size // run.accumulate} images already"
    if run.team is not None:
        return pieces, "several processes share each batch: accumulate=N splits it further"
    run.train_mode()
    norms = [module for module in run.model.modules() if isinstance(module, _BatchNorm) and module.training]
    if norms and not config["oom"]["allow_batchnorm"]:
        return (
            pieces,
            "batch norm would see smaller batches, which changes the result: oom.allow_batchnorm=true allows it",
        )
    return pieces, ""


@functools.cache  # once a process, not once a combination
def _warn_once(line: str) -> None:
    log.warning(line)
