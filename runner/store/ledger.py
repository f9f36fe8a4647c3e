"""Ledger: records of runs, read from the `result.json` in their folders."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.store import lock
from runner.store.files import CHECKPOINT, PLAN, RESULT, TABLE

log = logging.getLogger(__name__)

FINISHED = frozenset({"done", "pruned", "diverged"})  # runs with another status are run again
GOOD = frozenset({"done", "pruned"})
NUMBERS = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "epochs", "seconds")


@dataclass(frozen=True)
class Record:
    """Record of a run: its folder and its `result.json`."""

    folder: Path
    result: dict[str, Any]

    @property
    def status(self) -> str:
        return self.result["status"]

    @property
    def standing(self) -> str:
        """Return the status to show: a `running` one without a live process is `interrupted`, or `not started` where
        it has made no step."""
        if self.status != "running" or lock.holder(self.folder) is not None:
            return self.status
        return "interrupted" if self._has_steps() else "not started"

    @property
    def resumes(self) -> str:
        """Return the text that says at which step an interrupted run resumes."""
        stopped = self.result.get("stopped")
        return f"resumes at step {stopped['step']} of {stopped['steps']}" if _has_step(stopped) else ""

    def _has_steps(self) -> bool:
        """Return whether an abandoned run had made a step; True where nothing is known.

        A killed process leaves its lock with the step.
        """
        if _has_step(self.result.get("stopped")) or (self.folder / CHECKPOINT).exists():
            return True
        content = lock.read(self.folder)
        return _has_step(content) if content is not None else "stopped" not in self.result


def _has_step(content: Any) -> bool:
    """Return whether the content of a file, which may be damaged, names a step above 0."""
    return (
        isinstance(content, dict)
        and all(isinstance(content.get(key), int) for key in ("step", "steps"))
        and (content["step"] > 0)
    )


def parse(folder: Path) -> Record:
    """Return the record of a run's folder. Raises `OSError` or `ValueError` where it has no valid one."""
    result = json.loads((folder / RESULT).read_text())
    if not isinstance(result, dict) or not {"status", "fingerprint", "training"} <= set(result):
        raise ValueError("keys are missing")
    if invalid := [key for key in NUMBERS if not isinstance(result.get(key), int | float | None)]:
        raise ValueError(f"{invalid[0]} is no number")
    return Record(folder, result)


def read(folder: Path) -> Record | None:
    """Return the record of a run's folder; None where there is none, or, with a warning, where it is damaged."""
    try:
        return parse(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        log.warning("%s is damaged (%s): that run is done again", folder / RESULT, error)
        return None


def records(sweep: Path) -> Iterator[Record]:
    """Yield the records of a sweep's runs."""
    for folder in run_folders(sweep):
        if record := read(folder):
            yield record


def run_folders(sweep: Path) -> Iterator[Path]:
    """Yield the folders of a sweep's runs, also those deeper than one level.

    A sweep may lie in the folder of another (`name=a`, `name=a/b`). A run's name, its path below its own sweep's
    folder, tells them apart.
    """
    for folder in with_results(sweep):
        if folder.parent == sweep or _is_of(folder, sweep):
            yield folder


def with_results(top: Path) -> Iterator[Path]:
    """Yield the folders below `top` that hold a result, sorted by name; subfolders of runs are not searched."""
    try:
        folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # no folder, or not readable
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
    """Return whether a run deep below a sweep's folder belongs to that sweep, and not to one in between."""
    depth = _depth(folder)
    if depth is None:
        between = [path for path in folder.parents if sweep in path.parents]
        return not any((path / file).exists() for path in between for file in (PLAN, TABLE))
    return len(folder.relative_to(sweep).parts) <= depth


def _depth(folder: Path) -> int | None:
    """Return a run's depth below its sweep's folder; 0 where the result names no run, None where it is damaged."""
    try:
        return len(Path(json.loads((folder / RESULT).read_bytes())["run"]).parts)
    except (TypeError, KeyError):
        return 0
    except (OSError, ValueError):
        return None


def by_fingerprint(sweep: Path) -> dict[str, Record]:
    """Return the records of a sweep's runs, by fingerprint."""
    return {record.result["fingerprint"]: record for record in records(sweep)}
