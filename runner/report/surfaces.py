"""All paths of one surface in one picture, with a table: made from the runs' folders alone. No torch."""

import csv
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runner.store.files import PICTURE_MARK, png, write_atomic

FILES = ("trajectory.csv", "surface.npz")  # what a walk leaves, beside its result


class RunLike(Protocol):
    """A run as the report has read it."""

    folder: Path
    status: str
    facts: dict[str, Any]
    walked: bool  # a run of task=surface, whatever its end


@dataclass(frozen=True)
class Overlay:
    """One surface: its picture as a file beside the report, and one row a run."""

    title: str
    file: str
    png: bytes
    rows: list[dict[str, Any]]  # label, status, verdict, steps_to_tolerance, final_loss, distance, evaluations
    tolerance: float
    left_out: int  # runs that are in the table and not in the picture, which holds no more paths


def write_overlays(
    folder: Path, records: Sequence[RunLike], name: Callable[[RunLike, list[RunLike]], str]
) -> list[Overlay]:
    """Writes `folder/surface_<title>.png` for each surface that the runs walked on.

    name: a run's label among those of its surface.
    """
    if not any(record.walked for record in records):
        return []
    # matplotlib takes most of a second: a report without surfaces does not pay for it.
    from runner.report.surface_pictures import MOST, Ground, overlay_picture
    from runner.report.surface_pictures import Path as Walk

    grounds: dict[str, Any] = {}
    groups: dict[str, list[RunLike]] = {}
    for record in records:
        about = record.facts.get("surface")
        if not record.walked or not isinstance(about, dict) or not all((record.folder / f).is_file() for f in FILES):
            continue
        with np.load(record.folder / "surface.npz", allow_pickle=False) as file:
            x, y, values = file["x"], file["y"], file["values"]
        key = hashlib.sha256(x.tobytes() + y.tobytes() + values.tobytes()).hexdigest()
        grounds.setdefault(key, Ground(x, y, values, about))
        groups.setdefault(key, []).append(record)
    found, files = [], set()
    for key, group in groups.items():
        ground = grounds[key]
        paths = [Walk(name(r, group), r.facts["verdict"], columns(r.folder / FILES[0])) for r in group]
        file = unused(folder, re.sub(r"\W+", "_", str(ground.about["title"]).lower()), files)
        picture = png(overlay_picture(ground, paths))
        write_atomic(folder / file, picture, durable=False)
        rows = [
            {"label": path.label, "status": record.status}
            | {
                k: record.facts.get(k)
                for k in ("verdict", "steps_to_tolerance", "final_loss", "distance", "evaluations")
            }
            for path, record in zip(paths, group)
        ]
        title = ground.about["title"]
        found.append(Overlay(title, file, picture, rows, ground.about["tolerance"], max(0, len(paths) - MOST)))
    return found


def unused(folder: Path, stem: str, files: set[str]) -> str:
    """`surface_ravine.png`; `surface_ravine_2.png` where that is another ravine, or not ours."""
    numbers = (f"surface_{stem}{'' if n == 1 else f'_{n}'}.png" for n in itertools.count(1))
    name = next(name for name in numbers if name not in files and _is_free(folder / name))
    files.add(name)
    return name


def _is_free(path: Path) -> bool:
    """Tell a name that nothing has, or a picture of ours."""
    if not os.path.lexists(path):
        return True
    return path.is_file() and not path.is_symlink() and PICTURE_MARK in path.read_bytes()[:100]


def columns(file: Path) -> dict[str, list[float]]:
    """A trajectory's columns; an empty cell is NaN."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}
