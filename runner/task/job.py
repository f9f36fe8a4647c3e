"""A run that was planned, and its result as it begins and fails."""

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from runner.core import memory
from runner.core.schema import PRECISIONS
from runner.core.text import type_and_line
from runner.store import git
from runner.store.revisions import revision_list
from runner.store.sources import Code
from runner.task.preflight import SourceRuns
from runner.train.slot import Slot


class Pruner:
    """Whoever may end a run early by what it reached. It travels to the process that does the run."""

    def stop_reason(self, row: Mapping[str, Any], ended: bool) -> str | None:
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
    revisions: Mapping[str, int] = field(default_factory=dict)  # of the runner's choices: `runner.store.revisions`
    code: Code = field(default_factory=dict)  # digests of the user's own, see `runner.store.sources`
    ignores: tuple[str, ...] = ()  # parts of the config that do not matter to its task
    origins: tuple[SourceRuns, ...] = ()  # of the networks that answer, see `Facts`
    git: Sequence[Mapping[str, Any]] = ()  # the repositories that the command was typed with, see `runner.store.git`
    trained: Path | None = None  # a finished run whose training is the same
    pruner: Pruner | None = None  # a search's pruner
    sweep: Path | None = None  # the folder of its sweep, below which its own lies; None: the one above its own
    number: int | None = None  # among the runs of its sweep, hydra.job.num; None: a lone run
    slot: Slot | None = None  # its place among the runs that it may share a program with
    files: tuple[str, ...] = ()  # names that the run may write in its folder, see `runner.store.owned`

    @property
    def run(self) -> str:
        """Its name: the path below its sweep's folder."""
        return self.name_of(self.folder)

    def name_of(self, folder: Path) -> str:
        """The name of a run of the same sweep."""
        sweep = self.sweep or self.folder.parent
        return folder.relative_to(sweep).as_posix() if sweep in folder.parents else folder.name


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
