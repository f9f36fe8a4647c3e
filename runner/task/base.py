"""What a task is: it rehearses a config, executes a job, and leaves a result."""

import contextlib
import functools
import logging
import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from runner.core import memory
from runner.core.devices import check_device
from runner.core.errors import disk_full
from runner.core.listener import Listener
from runner.core.schema import PRECISIONS
from runner.core.text import type_and_line
from runner.store import git
from runner.store.files import RESULT, write_atomic, write_json, yaml_text
from runner.store.owned import written
from runner.store.revisions import covers, revision_list
from runner.store.sources import Code, edited
from runner.task.preflight import Facts, Origin
from runner.task.resources import Resources
from runner.tracking.events import Tracker
from runner.train.slot import Seat
from runner.train.state import Run

log = logging.getLogger(__name__)

T = TypeVar("T")


class Judge:
    """Whoever may end a run early by what it reached. It travels to the process that does the run."""

    def look(self, row: Mapping[str, Any], ended: bool) -> str | None:
        """After an epoch, with its row of metrics.csv: the reason to stop, or None. `ended`: there is no other."""
        raise NotImplementedError


@dataclass(frozen=True)
class Job:
    """One run that was planned: what to do, and where its results go."""

    folder: Path
    config: dict[str, Any]
    fingerprint: str
    training: str  # the identity of the training alone, which several evaluations share
    overrides: list[str]  # as typed, one value a key
    swept: dict[str, Any]  # the typed keys that vary
    choices: dict[str, Any]  # group -> option, or list of items
    command: str
    threads: int  # of the CPU, as resolved when it was planned
    columns: Mapping[str, str] = field(default_factory=dict)  # title -> key of the result: what its task shows
    revisions: Mapping[str, int] = field(
        default_factory=dict
    )  # of the runner's own choices, see `runner.store.revisions`
    code: Code = field(default_factory=dict)  # digests of the user's own, see `runner.store.sources`
    ignores: tuple[str, ...] = ()  # parts of the config that do not matter to its task
    origins: tuple[Origin, ...] = ()  # of the networks that answer, see `Facts`
    git: Sequence[Mapping[str, Any]] = ()  # the repositories that the command was typed with, see `runner.store.git`
    trained: Path | None = None  # a finished run whose training is the same
    judge: Judge | None = None  # a search's pruner
    sweep: Path | None = None  # the folder of its sweep, below which its own lies; None: the one above its own
    number: int | None = None  # among the runs of its sweep, hydra.job.num; None: a lone run
    seat: Seat | None = None  # its place among the runs that it may share a program with
    files: tuple[str, ...] = ()  # names that the run may write in its folder, see `runner.store.owned`

    @property
    def run(self) -> str:
        """Its name: the path below its sweep's folder."""
        return self.name_of(self.folder)

    def name_of(self, folder: Path) -> str:
        """The name of a run of the same sweep."""
        sweep = self.sweep or self.folder.parent
        return folder.relative_to(sweep).as_posix() if sweep in folder.parents else folder.name


class Trainable:
    """What a task yields when its runs are ready to train."""

    runs: list[Run]  # several of an ensemble
    ended_by: BaseException | None = None  # what ended their training early; raised by the task when it goes on

    def train(self) -> None:
        """Train them to their ends, by themselves."""
        raise NotImplementedError

    def raise_end(self) -> None:
        """Raise what ended the training early, if anything did."""
        error, self.ended_by = self.ended_by, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame: all that it has would stay in memory


@dataclass
class Ready:
    """Runs that are ready to train, and what their job has of the process meanwhile."""

    training: Trainable
    contexts: list[Callable[[], contextlib.AbstractContextManager]]  # the outermost first
    logging: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # in which its log is written to

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the process is the job's: its number of threads, its environment, its log."""
        with contextlib.ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            yield

    def train(self) -> None:
        """Train the runs by themselves; what ends that early is noted."""
        try:
            with self.active():
                self.training.train()
        except BaseException as error:
            self.training.ended_by = error


Result = dict[str, Any]
Work = Generator[Result | Trainable, None, None]
Phases = Generator[Ready, None, Result]  # of a job, whose caller trains what is ready


def carry_out(phases: Generator[Ready, None, T]) -> T:
    """Go through the phases of a job, training its runs by themselves; return its result."""
    while True:
        try:
            ready = next(phases)
        except StopIteration as end:
            return end.value
        ready.train()
        del ready  # what it has is freed with its last user


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

    def rehearse(self, builder: Resources, config: dict[str, Any]) -> Facts:
        """What is known before anything runs; raises `ConfigError` for what cannot work."""
        return builder.rehearse(config)

    def device(self, config: dict[str, Any]) -> torch.device:
        """Where the work is done."""
        return check_device(config)

    def execute(self, job: Job, builder: Resources, listener: Listener) -> dict[str, Any]:
        """Do the job and write its `result.json`; an error of the run becomes its status. Returns the result."""
        return carry_out(self.phases(job, builder, listener))

    def phases(self, job: Job, builder: Resources, listener: Listener) -> Phases:
        """Do the job as `execute` does, but for the training: yield its runs when they are ready for it."""
        device = self.device(job.config)
        memory.reset(device)
        with memory.released():
            result = yield from self._worked(job, builder, listener, device)
        result["peak_memory_mb"] = memory.peak(device)
        if job.files:
            result["files"] = written(job.folder, job.files)
        write_json(job.folder / RESULT, result)
        return result

    def _worked(self, job: Job, builder: Resources, listener: Listener, device: torch.device) -> Phases:
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
        work = self.work(job, builder, listener, device)
        try:
            while True:
                with settings():
                    part = next(work)
                if isinstance(part, Trainable):
                    yield Ready(part, [settings])
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

    def work(self, job: Job, builder: Resources, listener: Listener, device: torch.device) -> Work:
        """Do the work itself; yield parts of the result as they are known, `status` among them, and what is ready to
        train."""
        raise NotImplementedError

    def follow(self, job: Job, builder: Resources, device: torch.device) -> None:
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


def started(job: Job, device: torch.device) -> dict[str, Any]:
    """The result of a run that begins: who it is, and nothing reached yet."""
    name = f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
    return {
        "run": job.run,
        "number": job.number,
        "status": "running",
        "reason": None,
        "fingerprint": job.fingerprint,
        "training": job.training,
        "revisions": dict(job.revisions),
        "revision_list": revision_list(),
        "code": job.code,
        "swept": job.swept,
        "choices": job.choices,
        "ignores": list(job.ignores),
        "origins": [asdict(origin) for origin in job.origins],
        "overrides": job.overrides,
        "command": job.command,
        **dict.fromkeys(("val_accuracy", "val_loss", "test_accuracy", "test_loss")),
        "epochs": 0,
        "seconds": 0.0,
        "peak_memory_mb": None,
        "best_epoch": None,
        "diverged_step": None,
        "trained_in": None if job.trained is None else job.name_of(job.trained),
        "device": name,
        "precision": PRECISIONS.get(job.config["precision"]),
        "host": platform.node(),
        "threads": job.threads,
        "columns": dict(job.columns),
        "versions": versions(),
        "git_commit": git.commit(job.git),
        "git": list(job.git),
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def failure(error: Exception) -> dict[str, str]:
    """Status and reason of a run that an error ended."""
    status = "out_of_memory" if memory.lacking(error) else "failed"
    return {"status": status, "reason": type_and_line(error)}


@functools.cache
def versions() -> dict[str, str]:
    """Of all that numbers depend on."""
    packages = ("runner", "torch", "torchvision", "numpy", "hydra-core")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
