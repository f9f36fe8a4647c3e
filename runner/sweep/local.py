"""The runs of a plan one after the other, in this process."""

import logging
import shutil
from typing import Any

from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.errors import ConfigError
from runner.report import write_report
from runner.sweep.display import Display
from runner.sweep.plan import Entry, Plan, moved
from runner.task.base import Listener


def launch(plan: Plan, context: HydraContext) -> None:
    """Executes what is left to do; each run's end stands in its folder. An error ends its own run alone."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{plan.folder}: cannot write there ({error.strerror}); set name= or hydra.sweep.dir="
        ) from error
    with Display(plan) as display:
        try:
            for number, entry in enumerate(plan.todo):
                display.begin(entry)
                execute(entry, plan, number, context, display)
                display.end(entry)
        finally:
            forget_log()
            if any(plan.results()):
                display.report = write_report(plan.folder)


def execute(entry: Entry, plan: Plan, number: int, context: HydraContext, listener: Listener) -> None:
    """One run, in a Hydra job of its own: folder, `.hydra/`, log, callbacks."""
    job = entry.job
    if plan.rerun and job.folder.exists():
        shutil.rmtree(job.folder)
    if not plan.rerun and (other := plan.trained.get(job.training)):
        job = moved(entry, job.folder, other).job
    config = OmegaConf.merge(entry.hydra, job.config)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.num = number
        config.hydra.run.dir = str(job.folder)

    def task(_: DictConfig) -> dict[str, Any]:
        return plan.builder.task(job.config).execute(job, plan.builder, listener)

    done = run_job(
        task_function=task,
        config=config,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=context,
    )
    if done.return_value["status"] == "done":  # raises what escaped the run: a bug of ours
        plan.trained[job.training] = job.folder


def forget_log() -> None:
    """Closes the last run's log file, so that what comes after is not written to it."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
