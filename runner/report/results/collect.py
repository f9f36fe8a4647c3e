"""Records of runs, read from their result.json and metrics.csv without torch or pandas: 1,000 runs in a second."""

import csv
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.store.files import RESULT
from runner.store.ledger import Record, run_folders

METRICS = ("val_accuracy", "val_loss", "test_accuracy", "test_loss", "epochs", "seconds")
STATUSES = ("done", "pruned", "diverged", "out_of_memory", "failed", "interrupted", "not started", "running", "planned")


@dataclass(frozen=True)
class RunRecord:
    """RunRecord: a run's validated result.json, and its metrics.csv.

    `status` is `interrupted` if no process works on the run any more, `not started` if it had made no step by then.
    `metrics` has every name of `METRICS`, None for a missing value. `curves` maps a column of metrics.csv to a value
    for each epoch. `facts` is the rest of result.json, for display. A damaged record has no other content than
    `reason`.
    """

    folder: Path
    run: str
    status: str
    reason: str | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(METRICS))
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    is_damaged: bool = False

    @property
    def ignores(self) -> list[str]:
        """Return the parts of the config that the run's task ignores."""
        ignores = self.facts.get("ignores")
        return [str(part) for part in ignores] if isinstance(ignores, list) else []

    @property
    def is_surface(self) -> bool:
        """Return whether the run is of `task=surface`, which has a verdict instead of accuracies."""
        return "verdict" in self.facts

    @property
    def columns(self) -> dict[str, str]:
        """Return title -> key of the result for other tasks than `train` and `surface`; empty for these two."""
        columns = self.facts.get("columns")
        if self.is_surface or not isinstance(columns, dict) or "val_accuracy" in columns.values():
            return {}
        return columns


def collect(folder: Path) -> list[RunRecord]:
    """Read the runs of a sweep's folder, or the run in `folder` itself, sorted by name.

    A damaged result.json does not raise: its record has the status `failed`, and the reason.
    """
    folder = Path(folder).resolve()
    names = {run: run.relative_to(folder).as_posix() for run in run_folders(folder)}
    if (folder / RESULT).is_file():
        names[folder] = folder.name
    return [_read(run, name) for run, name in sorted(names.items(), key=lambda item: natural(item[1]))]


def natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key that puts `lr=2` before `lr=10`."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _read(folder: Path, name: str) -> RunRecord:
    try:
        content = json.loads((folder / RESULT).read_bytes())
        return _record(folder, name, content)
    except (OSError, ValueError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        reason = f"{RESULT} cannot be read: {_one_line(error)}"
        return RunRecord(folder, name, "failed", reason, is_damaged=True)


def _record(folder: Path, name: str, content: Any) -> RunRecord:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    facts = dict(content)
    status = facts.pop("status", None)
    if status not in STATUSES:
        raise ValueError(f"its status is {status!r}, not one of {', '.join(STATUSES)}")
    swept = _typed(facts, "swept", dict, {})
    overrides = _typed(facts, "overrides", list, [])
    choices = _typed(facts, "choices", dict, {})
    reason = facts.pop("reason", None)
    facts.pop("run", None)  # the name is the path below the sweep's folder, because the folder may have been renamed
    return RunRecord(
        folder=folder,
        run=name,
        status=Record(folder, content).standing,
        reason=None if reason is None else _one_line(reason),
        swept=swept,
        overrides=tuple(str(override) for override in overrides),
        choices=choices,
        metrics={name: _number(facts.pop(name, None), name) for name in METRICS},
        curves=_curves(folder / "metrics.csv"),
        facts=facts,
    )


def _typed(facts: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = facts.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise ValueError(f"its {name} is {value!r}, not a {kind.__name__}")
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its {name} is {value!r}, not a number")
    return value if math.isfinite(value) else None


def _curves(file: Path) -> dict[str, list[float | None]]:
    """Read the columns of metrics.csv up to the first incomplete row, which a running or killed run may leave.

    Of an epoch that a resumed run repeated, the last row counts.
    """
    try:
        rows = list(csv.reader(file.read_text(encoding="utf-8", errors="replace").splitlines()))
    except OSError:
        return {}
    if not rows or "epoch" not in rows[0]:
        return {}
    header, key = rows[0], rows[0].index("epoch")
    epochs: dict[float, list[float | None]] = {}
    for row in rows[1:]:
        values = [_cell(text) for text in row]
        if len(row) != len(header) or values[key] is None:
            break
        epochs[values[key]] = values
    ordered = [epochs[epoch] for epoch in sorted(epochs)]
    return {name: [values[i] for values in ordered] for i, name in enumerate(header)}


def _cell(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
