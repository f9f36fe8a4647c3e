"""What has been done: the folders themselves, read from their `result.json`."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import CHECKPOINT, RESULT
from runner.sweep import lock

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


def read(folder: Path) -> Record | None:
    """The record of a run's folder; None where there is none, or where it is damaged (then with a warning)."""
    path = folder / RESULT
    try:
        result = json.loads(path.read_text())
        if not isinstance(result, dict) or not {"status", "fingerprint", "training"} <= set(result):
            raise ValueError("keys are missing")
        if wrong := [key for key in NUMBERS if not isinstance(result.get(key), int | float | None)]:
            raise ValueError(f"{wrong[0]} is no number")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, OSError) as error:
        log.warning("%s is damaged (%s): that run is done again", path, error)
        return None
    return Record(folder, result)


def records(sweep: Path) -> Iterator[Record]:
    """All runs that left a result in a sweep's folder."""
    if sweep.is_dir():
        for folder in sorted(sweep.iterdir()):
            if folder.is_dir() and (record := read(folder)):
                yield record


def by_fingerprint(sweep: Path) -> dict[str, Record]:
    """The runs of a sweep's folder."""
    return {record.result["fingerprint"]: record for record in records(sweep)}
