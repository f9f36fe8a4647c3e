"""One run of a plan, wherever it is done: under its lock, in a Hydra job of its own."""

import copy
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.build import Builder
from runner.errors import DiskFull, disk_full
from runner.files import write_atomic, yaml_text
from runner.listener import Listener
from runner.sweep import lock
from runner.sweep.ledger import FINISHED, read
from runner.task.base import Job


@dataclass(frozen=True)
class Work:
    """A run and all that another process needs to do it."""

    job: Job
    hydra: DictConfig  # Hydra's own part of its config
    number: int  # in the order in which the runs begin
    rerun: bool
    seen: str | None  # when the attempt began that stood in the folder as the command was planned


def perform(work: Work, builder: Builder, context: HydraContext, listener: Listener) -> bool:
    """Does a run; its end stands in its folder. False where another process is doing it right now.

    What another process has ended since the plan was made is not done again. Raises `DiskFull`, and what is a bug of
    ours.
    """
    try:
        return _perform(work, builder, context, listener)
    except OSError as error:
        if disk_full(error):
            raise DiskFull(f"{work.job.folder}: {error.strerror}") from error
        raise


def _perform(work: Work, builder: Builder, context: HydraContext, listener: Listener) -> bool:
    job = work.job
    with lock.Lock(job.folder, listener) as held:
        if not held:
            return False
        if _done_meanwhile(work):
            return True
        if work.rerun:
            _empty(job)
        # Hydra copies and writes its config several times: it gets the run's own part only where somebody looks at it.
        config = OmegaConf.merge(work.hydra, job.config) if work.hydra.hydra.callbacks else copy.deepcopy(work.hydra)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.num = work.number
            config.hydra.run.dir = str(job.folder)
            subdir, config.hydra.output_subdir = config.hydra.output_subdir, None

        def task(_: DictConfig) -> dict[str, Any]:
            if subdir is not None:
                _write_hydra(job, config, job.folder / subdir)
            return builder.task(job.config).execute(job, builder, held)

        try:
            done = run_job(
                task_function=task,
                config=config,
                job_dir_key="hydra.run.dir",
                job_subdir_key=None,
                hydra_context=context,
            )
        finally:
            _forget_log()
        done.return_value  # noqa: B018 - raises what escaped the run
        return True


def _write_hydra(job: Job, config: DictConfig, folder: Path) -> None:
    """The three files that Hydra leaves of a job."""
    folder.mkdir(exist_ok=True)
    hydra = OmegaConf.to_container(config.hydra, resolve=False, enum_to_str=True)
    for name, content in (("config", job.config), ("hydra", {"hydra": hydra}), ("overrides", job.overrides)):
        write_atomic(folder / f"{name}.yaml", yaml_text(content), durable=False)


def _done_meanwhile(work: Work) -> bool:
    record = read(work.job.folder)
    if record is None or record.result.get("started") == work.seen:
        return False
    return record.status in FINISHED | {"failed", "out_of_memory"}


def _empty(job: Job) -> None:
    """What an earlier attempt left, but for the lock."""
    for path in job.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (lock.FILE, lock.GUARD):
            path.unlink()


def _forget_log() -> None:
    """Closes the run's log file, so that what comes after is not written to it."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
