"""What has been done: the folders themselves, read from their `result.json`."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.files import RESULT
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
        """The status as a person is told: `interrupted` for a run that was begun and that nobody does now."""
        left = self.status == "running" and lock.holder(self.folder) is None
        return "interrupted" if left else self.status


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
    if sweep.is_dir():
        for folder in sorted(sweep.iterdir()):
            if folder.is_dir() and (record := read(folder)):
                yield record


def by_fingerprint(sweep: Path) -> dict[str, Record]:
    """The runs of a sweep's folder."""
    return {record.result["fingerprint"]: record for record in records(sweep)}
