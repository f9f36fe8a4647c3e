"""A run as a Hydra job, at a tenth of the price of Hydra's own `run_job`, which copies its whole config six times.

Kept is all that a job can see of Hydra: `HydraConfig`, logging as `hydra.job_logging` has it, `hydra.job.env_set` and
`hydra.job.chdir`, callbacks, the three files of `hydra.output_subdir`.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.store.files import write_atomic, yaml_text
from runner.sweep.compose.compose import Part, current
from runner.task.base import Job


def run_job(task: Callable[[], Any], part: Part, job: Job, context: HydraContext) -> Any:
    """What `task` returns, called as Hydra calls a job; raises what it raises."""
    folder = job.folder.absolute()
    own = {"run.dir": str(job.folder), "runtime.output_dir": str(folder)}
    config = Part(part.content, part.own | own).node()
    if part.refers or config.hydra.callbacks:  # which may look at the run's own part, too
        config = OmegaConf.merge(config, job.config)
    OmegaConf.set_readonly(config.hydra, True)
    hydra = config.hydra
    with contextlib.ExitStack() as stack:
        stack.enter_context(current(config))
        if hydra.job.chdir:
            stack.enter_context(contextlib.chdir(folder))
        stack.callback(_forget_log)
        configure_log(hydra.job_logging, hydra.verbose)
        if hydra.output_subdir is not None:
            _write(job, config, folder / hydra.output_subdir)
        with env_override(hydra.job.env_set):
            context.callbacks.on_job_start(config=config, task_function=task)
            cfg = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            done = JobReturn(overrides=job.overrides, cfg=cfg, hydra_cfg=config, working_dir=str(Path.cwd()))
            try:
                done.return_value, done.status = task(), JobStatus.COMPLETED
            except Exception as error:
                done.return_value, done.status = error, JobStatus.FAILED
        context.callbacks.on_job_end(config=config, job_return=done)
    return done.return_value  # a property of Hydra's: raises what escaped the run


def _write(job: Job, config: DictConfig, folder: Path) -> None:
    """The three files that Hydra leaves of a job."""
    folder.mkdir(parents=True, exist_ok=True)
    hydra = OmegaConf.to_container(config.hydra, resolve=False, enum_to_str=True)
    for name, content in (("config", job.config), ("hydra", {"hydra": hydra}), ("overrides", job.overrides)):
        write_atomic(folder / f"{name}.yaml", yaml_text(content), durable=False)


def _forget_log() -> None:
    """Closes the run's log file, so that what comes after is not written to it."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
