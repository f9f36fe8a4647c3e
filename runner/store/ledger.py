"""What has been done: the folders themselves, read from their `result.json`."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.store import lock
from runner.store.files import CHECKPOINT, PLAN, RESULT, TABLE

log = logging.getLogger(__name__)

FINISHED = frozenset({"done", "pruned", "diverged"})  # results; other statuses are tried again
GOOD = frozenset({"done", "pruned"})
NUMBERS = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "epochs", "seconds")


@dataclass(frozen=True)
class Record:
    """A run that left something."""

    folder: Path
    result: dict[str, Any]

    @property
    def status(self) -> str:
        return self.result["status"]

    @property
    def standing(self) -> str:
        """Return the status as a person is told: of a run that was begun and that nobody does now, `interrupted`, or
        `not started` where it has made no step."""
        if self.status != "running" or lock.holder(self.folder) is not None:
            return self.status
        return "interrupted" if self._has_steps() else "not started"

    @property
    def resumes(self) -> str:
        """Return in words where an interrupted run goes on."""
        stopped = self.result.get("stopped")
        return f"resumes at step {stopped['step']} of {stopped['steps']}" if _step(stopped) else ""

    def _has_steps(self) -> bool:
        """Return whether a run that was left had made a step. A killed process leaves its lock, which says so; where
        nothing tells, it is taken for one that had."""
        if _step(self.result.get("stopped")) or (self.folder / CHECKPOINT).exists():
            return True
        said = lock.read(self.folder)
        return _step(said) if said is not None else "stopped" not in self.result


def _step(about: Any) -> bool:
    """Return whether a step stands there: a damaged file may hold anything."""
    return (
        isinstance(about, dict)
        and all(isinstance(about.get(key), int) for key in ("step", "steps"))
        and (about["step"] > 0)
    )


def parse(folder: Path) -> Record:
    """Return the record of a run's folder. Raises `OSError` or `ValueError` where it has none of ours."""
    result = json.loads((folder / RESULT).read_text())
    if not isinstance(result, dict) or not {"status", "fingerprint", "training"} <= set(result):
        raise ValueError("keys are missing")
    if wrong := [key for key in NUMBERS if not isinstance(result.get(key), int | float | None)]:
        raise ValueError(f"{wrong[0]} is no number")
    return Record(folder, result)


def read(folder: Path) -> Record | None:
    """The record of a run's folder; None where there is none, or where it is damaged (then with a warning)."""
    try:
        return parse(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        log.warning("%s is damaged (%s): that run is done again", folder / RESULT, error)
        return None


def records(sweep: Path) -> Iterator[Record]:
    """All runs that left a result in a sweep's folder."""
    for folder in run_folders(sweep):
        if record := read(folder):
            yield record


def run_folders(sweep: Path) -> Iterator[Path]:
    """Yield the folders of a sweep's runs: those right below its own, and those deeper ones that say so themselves.

    A sweep may lie in another one's folder (`name=a`, `name=a/b`): a run's name is its path below its own sweep's.
    """
    for folder in with_results(sweep):
        if folder.parent == sweep or _is_of(folder, sweep):
            yield folder


def with_results(top: Path) -> Iterator[Path]:
    """Yield the folders below another one that hold a result, by name; a run's own folder is not searched further."""
    try:
        folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # no folder, or a private one
        return
    for folder in folders:
        if (folder / RESULT).is_file():
            yield folder
        elif not folder.is_symlink():
            yield from with_results(folder)


def sweep_of(folder: Path) -> Path:
    """Return the folder of a run's sweep."""
    return folder.parents[max(_depth(folder) or 1, 1) - 1]


def _is_of(folder: Path, sweep: Path) -> bool:
    """Whether a run deep below a folder is one of its sweep's, or of one in between."""
    depth = _depth(folder)
    if depth is None:
        between = [path for path in folder.parents if sweep in path.parents]
        return not any((path / file).exists() for path in between for file in (PLAN, TABLE))
    return len(folder.relative_to(sweep).parts) <= depth


def _depth(folder: Path) -> int | None:
    """How deep a run lies below its sweep's folder; 0 where it is no run of ours, None where its result is damaged."""
    try:
        return len(Path(json.loads((folder / RESULT).read_bytes())["run"]).parts)
    except (TypeError, KeyError):
        return 0
    except (OSError, ValueError):
        return None


def by_fingerprint(sweep: Path) -> dict[str, Record]:
    """The runs of a sweep's folder."""
    return {record.result["fingerprint"]: record for record in records(sweep)}
