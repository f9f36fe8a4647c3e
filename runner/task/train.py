"""One run, from config to result."""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from runner.core import interruption, memory
from runner.core.errors import ConfigError
from runner.core.listener import Listener
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


class Train(Task):
    """`task=train`: trains, validates, tests once."""

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
        """Raise `ConfigError` for a typed `checkpoint.metric` that nothing would read."""
        words = [word for word in typed if word.partition("=")[0].lstrip("+") == "checkpoint.metric"]
        if words and config["checkpoint"]["select"] == "auto":
            raise ConfigError(
                f"{words[-1]}: checkpoint.select=auto takes the last epoch or that of the lowest validation loss; add "
                "checkpoint.select=best, or leave it out"
            )
        return config

    def work(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> TaskParts:
        """Trains, or goes on; where torchrun started several processes, together with the others."""
        with leading(job, device):
            yield from self._attempts(job, resources, listener, device)

    def follow(self, job: Job, resources: Resources, device: torch.device) -> None:
        """Trains along with the first process."""
        silent = {"probe": {"every": 0, "curvature_every": 0}}  # what is only looked at
        with process_settings(job.config, job.threads), contextlib.suppress(Diverged):
            Training(replace(job, config=job.config | silent), resources, device).train()
            interruption.check()

    def _attempts(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> TaskParts:
        """Trains, or goes on; what was known before an error stays known. Where memory does not suffice, the batch goes
        through in more pieces, whose gradients add up to its own."""
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
                if session is None or not memory.lacking(error):
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
    """(images of a batch, twice the micro-batches that it is split into), or why that is no way out."""
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
