"""Results of runs, read from their folders."""

import csv
import json
from pathlib import Path

TIMES = {"seconds", "started", "peak_memory_mb", "command", "overrides"}


def numbers(result: dict) -> dict:
    """A result without what differs from one execution to the next."""
    return {key: value for key, value in result.items() if key not in TIMES}


def metrics(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def result_of(folder: Path) -> dict:
    """The result of the only run in a folder."""
    (path,) = folder.glob("*/result.json")
    return json.loads(path.read_text())


def results_of(folder: Path) -> dict[str, dict]:
    """All results in a folder, by the name of the run."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))}
