"""What averaging several networks gained, for runs that did."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.report.results.collect import RunRecord
from runner.report.results.tables import Row

PICTURE = "ensemble.png"  # as runner.task.ensemble_facts names it
MOST_PICTURES = 4  # on one page; each is about 50 kB


@dataclass(frozen=True)
class Ensembles:
    """`rows`: one a combination, for the table; `pictures`: (run, png); `more` of these were left out."""

    rows: list[dict[str, Any]]
    pictures: list[tuple[str, bytes]]
    more: int


def ensembles(rows: Sequence[Row]) -> Ensembles:
    """Of the combinations with an `ensemble` in the results of their finished runs; the first of the table first."""
    found, files = [], []
    for row in rows:
        known = [(record, facts) for record in row.done if (facts := _facts(record)) is not None]
        if known:
            found.append(_line(row, [facts for _, facts in known]))
        files += [record.folder / PICTURE for record, _ in known if (record.folder / PICTURE).is_file()]
    pictures = [(file.parent.name, file.read_bytes()) for file in files[:MOST_PICTURES]]
    return Ensembles(found, pictures, len(files) - len(pictures))


def _facts(record: RunRecord) -> dict[str, Any] | None:
    facts = record.facts.get("ensemble")
    numbers = isinstance(facts, dict) and all(isinstance(facts.get(key), int | float) for key in ("mean", "gain"))
    return facts if numbers and isinstance(facts.get("members"), list) else None


def _line(row: Row, facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    gains = [one["gain"] for one in facts]
    sizes = sorted({len(one["members"]) for one in facts})
    return {
        "name": row.name,
        "runs": len(facts),
        "members": " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1]))),
        "mean": statistics.fmean(one["mean"] for one in facts),
        "together": statistics.fmean(one["mean"] + one["gain"] for one in facts),
        "gain": statistics.fmean(gains),
        "deviation": statistics.stdev(gains) if len(gains) > 1 else None,
    }
