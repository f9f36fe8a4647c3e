"""Folders of runs, and the words that place them."""

import csv
import json
from pathlib import Path

SMALL = ("model=mlp", "epochs=1", "data.limit=100", "log.tensorboard=false", "log.images=0")
HERE = (*SMALL, "hydra.launcher.workers=0")
TIME = "${now:%H-%M-%S-%f}"  # to the microsecond: no two readings of the clock agree


def runs(sweep: str | Path) -> dict[str, dict]:
    """All results below a folder, by their path in it."""
    files = {path.parent.relative_to(sweep).as_posix(): path for path in Path(sweep).rglob("result.json")}
    return {name: json.loads(path.read_text()) for name, path in sorted(files.items())}


def rows(sweep: str | Path) -> list[dict[str, str]]:
    with Path(sweep, "results.csv").open() as file:
        return list(csv.DictReader(file))


def experiment(text: str) -> tuple[str, ...]:
    """The words that bring an experiment with that text for Hydra."""
    Path("own/experiment").mkdir(parents=True, exist_ok=True)
    Path("own/experiment/mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return "--config-dir", "own", "experiment=mine"
