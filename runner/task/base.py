"""What a task is: it rehearses a config, executes a job, and leaves a result."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from runner.core import memory
from runner.core.devices import check_device
from runner.core.errors import disk_full
from runner.core.listener import Listener
from runner.store.files import RESULT, write_atomic, write_json, yaml_text
from runner.store.owned import written
from runner.store.revisions import covers
from runner.store.sources import edited
from runner.task.job import Job, failure, started
from runner.task.phases import Phases, ReadyJob, TaskParts, Trainable, carry_out
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.tracking.events import Tracker

log = logging.getLogger(__name__)


class Task:
    """The base of `task=...`."""

    ignores: ClassVar[frozenset[str]] = frozenset()  # parts of a config that cannot matter to this task
    refuses: ClassVar[frozenset[str]] = frozenset()  # those of them that nobody types but by a slip
    columns: ClassVar[Mapping[str, str]] = {}  # title -> key of the result: what the table at the end shows
    together: ClassVar[bool] = False  # whether several processes can do it, each a part of every step
    fuses: ClassVar[bool] = False  # whether several jobs can share a program, each its own part of every step
    replays: ClassVar[bool] = False  # whether its steps may be CUDA graphs

    def complete(self, config: dict[str, Any], typed: list[str]) -> dict[str, Any]:
        """The checked config with what this task brings itself; `typed` are the user's words."""
        return config

    def choices(self, chosen: dict[str, Any], typed: list[str], facts: Facts) -> dict[str, Any]:
        """Return group -> option of the groups that matter to the task, of all that a config chooses."""
        return {group: choice for group, choice in chosen.items() if not covers(self.ignores, group)}

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """What is known before anything runs; raises `ConfigError` for what cannot work."""
        return resources.preflight(config)

    def device(self, config: dict[str, Any]) -> torch.device:
        """Where the work is done."""
        return check_device(config)

    def execute(self, job: Job, resources: Resources, listener: Listener) -> dict[str, Any]:
        """Do the job and write its `result.json`; an error of the run becomes its status. Returns the result."""
        return carry_out(self.phases(job, resources, listener))

    def phases(self, job: Job, resources: Resources, listener: Listener) -> Phases:
        """Do the job as `execute` does, but for the training: yield its runs when they are ready for it."""
        device = self.device(job.config)
        memory.reset(device)
        with memory.released():
            result = yield from self._worked(job, resources, listener, device)
        result["peak_memory_mb"] = memory.peak(device)
        if job.files:
            result["files"] = written(job.folder, job.files)
        write_json(job.folder / RESULT, result)
        return result

    def _worked(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> Phases:
        """Do the job; return its result, but for the memory that it took."""
        result = started(job, device)
        write_json(job.folder / RESULT, result)
        write_atomic(job.folder / "config.yaml", yaml_text(job.config), durable=False)
        if changed := edited(job.code):
            reason = f"{', '.join(changed)}: edited after the command was typed; type it again"
            result |= {"status": "failed", "reason": reason}
            write_json(job.folder / RESULT, result)
            return result
        settings = functools.partial(process_settings, job.config, job.threads)
        work = self.work(job, resources, listener, device)
        try:
            while True:
                with settings():
                    part = next(work)
                if isinstance(part, Trainable):
                    yield ReadyJob(part, [settings])
                else:
                    result |= part
                del part
        except StopIteration:
            pass
        except Exception as error:
            if disk_full(error):
                raise
            log.exception("the run ended early")
            result |= failure(error)
        except KeyboardInterrupt:
            write_json(job.folder / RESULT, {"stopped": None} | result)
            raise
        return result

    def work(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> TaskParts:
        """Do the work itself; yield parts of the result as they are known, `status` among them, and what is ready to
        train."""
        raise NotImplementedError

    def follow(self, job: Job, resources: Resources, device: torch.device) -> None:
        """The part of every process but the first, where `together`: it writes nothing."""
        raise NotImplementedError


@contextlib.contextmanager
def tracking(job: Job) -> Iterator[Tracker | None]:
    """TensorBoard's file of a task that does its work in one go; None where none is wanted."""
    if not job.config["log"]["tensorboard"]:
        yield None
        return
    tracker, status = Tracker(job.folder), None
    try:
        yield tracker
        status = "done"
    except Exception as error:
        status = failure(error)["status"]
        raise
    finally:
        tracker.close(status)


@contextlib.contextmanager
def process_settings(config: dict[str, Any], threads: int) -> Iterator[None]:
    """Threads, determinism and TF32 are the process's: set for the run, put back after it."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    if config["deterministic"] != strict:  # to say it again would load torch's compiler
        torch.use_deterministic_algorithms(config["deterministic"])
    # fp32 means fp32: the last bits are given up only where bf16 or fp16 was asked for.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if config["deterministic"] != strict:
            torch.use_deterministic_algorithms(strict)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
