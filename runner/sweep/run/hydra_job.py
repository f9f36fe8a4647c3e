"""HydraJob: executes a run as a Hydra job, in a tenth of the time of Hydra's `run_job`.

`run_job` copies its whole config six times. A job sees the same of Hydra: `HydraConfig`, logging by
`hydra.job_logging`, `hydra.job.env_set` and `hydra.job.chdir`, callbacks, the three files in `hydra.output_subdir`.
"""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from runner.core.run_log import OwnLines
from runner.store.files import write_atomic, yaml_text
from runner.sweep.compose.compose import Part, active_config
from runner.task.job import Job
from runner.task.phases import Phases, ReadyJob


class HydraJob:
    """Hydra job of a run, with the config, folder, environment and log that are active while it executes."""

    def __init__(self, part: Part, job: Job, context: HydraContext):
        self._job, self._callbacks = job, context.callbacks
        self._folder = job.folder.absolute()
        paths = {"run.dir": str(job.folder), "runtime.output_dir": str(self._folder)}
        self._config = Part(part.content, part.own | paths).node()
        if part.refers or self._config.hydra.callbacks:  # these may read the run's own keys, too
            self._config = OmegaConf.merge(self._config, job.config)
        OmegaConf.set_readonly(self._config.hydra, True)
        self._logs: list[logging.FileHandler] = []

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Activate this job's `HydraConfig`, folder, environment and log inside the context."""
        hydra = self._config.hydra
        with contextlib.ExitStack() as stack:
            stack.enter_context(active_config(self._config))
            if hydra.job.chdir:
                stack.enter_context(contextlib.chdir(self._folder))
            stack.enter_context(env_override(hydra.job.env_set))
            stack.enter_context(self.logging())
            yield

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Write to this job's log files inside the context: its own lines, and lines of no particular run."""
        root = logging.getLogger()
        for handler in self._logs:
            root.addHandler(handler)
        try:
            yield
        finally:
            for handler in self._logs:
                root.removeHandler(handler)

    def phases(self, task: Callable[[], Phases]) -> Phases:
        """Yield a task's phases between Hydra's callbacks; return its result. Raises what the task raises."""
        try:
            with self.active():
                job_return = self._begin(task)
            yield from self._advance(task(), job_return)
            with self.active():
                self._callbacks.on_job_end(config=self._config, job_return=job_return)
        finally:
            for handler in self._logs:
                handler.close()
        return job_return.return_value  # this property of Hydra raises the run's error

    def _begin(self, task: Callable[[], Any]) -> JobReturn:
        hydra = self._config.hydra
        configure_log(hydra.job_logging, hydra.verbose)
        root = logging.getLogger()
        self._logs += [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]
        for handler in self._logs:
            handler.addFilter(OwnLines(self._job.folder))
        if hydra.output_subdir is not None:
            _write(self._job, self._config, self._folder / hydra.output_subdir)
        self._callbacks.on_job_start(config=self._config, task_function=task)
        cfg = OmegaConf.masked_copy(self._config, [key for key in self._config if key != "hydra"])
        return JobReturn(overrides=self._job.overrides, cfg=cfg, hydra_cfg=self._config, working_dir=str(Path.cwd()))

    def _advance(self, phases: Phases, job_return: JobReturn) -> Generator[ReadyJob, None, None]:
        """Advance a task while the job is active; yield its ready runs while the job is inactive."""
        while True:
            try:
                with self.active():
                    ready = next(phases)
            except StopIteration as end:
                job_return.return_value, job_return.status = end.value, JobStatus.COMPLETED
                return
            except Exception as error:
                job_return.return_value, job_return.status = error, JobStatus.FAILED
                return
            ready.contexts.insert(0, self.active)
            ready.logging = self.logging
            yield ready
            del ready


def _write(job: Job, config: DictConfig, folder: Path) -> None:
    """Write the three files that Hydra keeps of a job: config, hydra, overrides."""
    folder.mkdir(parents=True, exist_ok=True)
    hydra = OmegaConf.to_container(config.hydra, resolve=False, enum_to_str=True)
    for name, content in (("config", job.config), ("hydra", {"hydra": hydra}), ("overrides", job.overrides)):
        write_atomic(folder / f"{name}.yaml", yaml_text(content), durable=False)
