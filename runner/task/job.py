"""Job: one planned run; the result of a run at its start and after an error."""

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
    """Pruner: stops a run early from its validation history. It is pickled to the process of the run."""

    def stop_reason(self, row: Mapping[str, Any], ended: bool) -> str | None:
        """Return the reason to stop after an epoch, or None. row: of metrics.csv. ended: it is the last epoch."""
        raise NotImplementedError


@dataclass(frozen=True)
class Job:
    """One planned run: its config, and the folder of its results."""

    folder: Path
    config: dict[str, Any]
    fingerprint: str
    training: str  # fingerprint of the training alone; several evaluations share it
    overrides: list[str]  # as typed, with one value per key
    swept: dict[str, Any]  # typed keys that vary in the sweep, with this run's values
    choices: dict[str, Any]  # group -> option, or list of items
    command: str
    threads: int  # CPU threads, resolved at planning
    columns: Mapping[str, str] = field(default_factory=dict)  # title -> key of the result, see `Task.columns`
    revisions: Mapping[str, int] = field(default_factory=dict)  # of the runner's choices: `runner.store.revisions`
    code: Code = field(default_factory=dict)  # digests of the user's own code, see `runner.store.sources`
    ignores: tuple[str, ...] = ()  # parts of the config that its task does not use
    origins: tuple[SourceRuns, ...] = ()  # of the evaluated networks, see `Facts`
    git: Sequence[Mapping[str, Any]] = ()  # state of the repositories at the command, see `runner.store.git`
    trained: Path | None = None  # folder of a finished run with the same training
    pruner: Pruner | None = None  # of a search
    sweep: Path | None = None  # folder of its sweep, above `folder`; None: the parent of `folder`
    number: int | None = None  # index in its sweep, hydra.job.num; None: a single run
    slot: Slot | None = None  # its slot among the runs that it may share a program with
    files: tuple[str, ...] = ()  # names of files that the run may write, see `runner.store.owned`

    @property
    def run(self) -> str:
        """Return the name of the run: its path below the sweep's folder."""
        return self.name_of(self.folder)

    def name_of(self, folder: Path) -> str:
        """Return the name of a run of the same sweep."""
        sweep = self.sweep or self.folder.parent
        return folder.relative_to(sweep).as_posix() if sweep in folder.parents else folder.name


def started(job: Job, device: torch.device) -> dict[str, Any]:
    """Return the result of a run at its start: its identity, and no metrics yet."""
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
    """Return status and reason of a run that ended with an error."""
    status = "out_of_memory" if memory.is_out_of_memory(error) else "failed"
    return {"status": status, "reason": type_and_line(error)}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that affect results."""
    packages = ("runner", "torch", "torchvision", "numpy", "hydra-core")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
