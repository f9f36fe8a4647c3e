"""Section of the report on ensembles: the gain in test accuracy over the mean of the members."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.report.results.collect import RunRecord
from runner.report.results.tables import Row

PICTURE = "ensemble.png"  # the name of the file that runner.task.ensemble_facts writes
MOST_PICTURES = 4  # on a page; each is about 50 kB


@dataclass(frozen=True)
class Ensembles:
    """Content of the section: a row for each combination, `pictures` (run, PNG), and `more`, how many are left out."""

    rows: list[dict[str, Any]]
    pictures: list[tuple[str, bytes]]
    more: int


def ensembles(rows: Sequence[Row]) -> Ensembles:
    """Return the ensembles of finished runs, in the order of `rows`."""
    table, files = [], []
    for row in rows:
        ensemble_runs = [(record, facts) for record in row.done if (facts := _facts(record)) is not None]
        if ensemble_runs:
            table.append(_line(row, [facts for _, facts in ensemble_runs]))
        files += [record.folder / PICTURE for record, _ in ensemble_runs if (record.folder / PICTURE).is_file()]
    pictures = [(file.parent.name, file.read_bytes()) for file in files[:MOST_PICTURES]]
    return Ensembles(table, pictures, len(files) - len(pictures))


def _facts(record: RunRecord) -> dict[str, Any] | None:
    facts = record.facts.get("ensemble")
    is_numeric = isinstance(facts, dict) and all(isinstance(facts.get(key), int | float) for key in ("mean", "gain"))
    return facts if is_numeric and isinstance(facts.get("members"), list) else None


def _line(row: Row, facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    gains = [ensemble["gain"] for ensemble in facts]
    sizes = sorted({len(ensemble["members"]) for ensemble in facts})
    return {
        "name": row.name,
        "runs": len(facts),
        "members": " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1]))),
        "mean": statistics.fmean(ensemble["mean"] for ensemble in facts),
        "together": statistics.fmean(ensemble["mean"] + ensemble["gain"] for ensemble in facts),
        "gain": statistics.fmean(gains),
        "deviation": statistics.stdev(gains) if len(gains) > 1 else None,
    }
