"""Task: checks a config, executes a job and writes its result."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from runner.core import memory
from runner.core.devices import check_device
from runner.core.errors import is_disk_full
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
    """Base class of the options of `task=...`."""

    ignores: ClassVar[frozenset[str]] = frozenset()  # parts of a config that this task does not use
    refuses: ClassVar[frozenset[str]] = frozenset()  # of these, parts that are an error if typed
    columns: ClassVar[Mapping[str, str]] = {}  # title -> key of the result, for the final table
    together: ClassVar[bool] = False  # several processes can share each of its steps (torchrun)
    fuses: ClassVar[bool] = False  # several of its jobs can share a program (fused runs)
    replays: ClassVar[bool] = False  # its steps may be CUDA graphs

    def complete(self, config: dict[str, Any], typed: list[str]) -> dict[str, Any]:
        """Return the checked config, completed by this task; `typed` are the user's overrides."""
        return config

    def choices(self, chosen: dict[str, Any], typed: list[str], facts: Facts) -> dict[str, Any]:
        """Return group -> option, without the groups that this task ignores."""
        return {group: choice for group, choice in chosen.items() if not covers(self.ignores, group)}

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Return the facts about a config before it runs; raises `ConfigError` for a config that cannot work."""
        return resources.preflight(config)

    def device(self, config: dict[str, Any]) -> torch.device:
        """Return the device of the work."""
        return check_device(config)

    def execute(self, job: Job, resources: Resources, listener: Listener) -> dict[str, Any]:
        """Do the job, write its `result.json` and return the result; an error of the run becomes its status."""
        return carry_out(self.phases(job, resources, listener))

    def phases(self, job: Job, resources: Resources, listener: Listener) -> Phases:
        """Do the job as `execute` does, except for the training: yield its runs when they are ready to train."""
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
        """Do the job; return its result without the peak memory."""
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
            if is_disk_full(error):
                raise
            log.exception("the run ended early")
            result |= failure(error)
        except KeyboardInterrupt:
            write_json(job.folder / RESULT, {"stopped": None} | result)
            raise
        return result

    def work(self, job: Job, resources: Resources, listener: Listener, device: torch.device) -> TaskParts:
        """Do the work; yield parts of the result as they are known, `status` among them, and each `Trainable` when it
        is ready."""
        raise NotImplementedError

    def follow(self, job: Job, resources: Resources, device: torch.device) -> None:
        """Do the part of a process other than the first, if `together`; it writes nothing."""
        raise NotImplementedError


@contextlib.contextmanager
def tracking(job: Job) -> Iterator[Tracker | None]:
    """Yield the TensorBoard tracker of a task without training; None if `log.tensorboard` is off."""
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
    """Set the process-wide number of threads, determinism and TF32 for a run; restore them afterwards."""
    threads_before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.set_num_threads(threads)
    if config["deterministic"] != strict:  # only on a change, because the call loads torch's compiler
        torch.use_deterministic_algorithms(config["deterministic"])
    # fp32 means fp32: only precision=bf16 or fp16 reduces it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if config["deterministic"] != strict:
            torch.use_deterministic_algorithms(strict)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
