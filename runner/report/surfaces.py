"""Overlays: all paths on a surface in one picture, with a table, made from the runs' files. Does not import torch."""

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

FILES = ("trajectory.csv", "surface.npz")  # of a run of task=surface, beside result.json


class RunLike(Protocol):
    """RunLike: the attributes of a run that overlays need."""

    folder: Path
    status: str
    facts: dict[str, Any]
    is_surface: bool  # whether it is of task=surface


@dataclass(frozen=True)
class Overlay:
    """Overlay of the paths on a surface: its picture, a file beside the report, and a table row for each run."""

    title: str
    file: str
    png: bytes
    rows: list[dict[str, Any]]  # label, status, verdict, steps_to_tolerance, final_loss, distance, evaluations
    tolerance: float
    left_out: int  # runs in the table but not in the picture, because it holds at most `MOST` paths


def write_overlays(
    folder: Path, records: Sequence[RunLike], name: Callable[[RunLike, list[RunLike]], str]
) -> list[Overlay]:
    """Write `folder/surface_<title>.png` for each surface of the runs, and return the overlays.

    name: a function of a run and all runs of its surface that returns the run's label.
    """
    if not any(record.is_surface for record in records):
        return []
    # Imported here, because matplotlib takes most of a second to import.
    from runner.report.surface_pictures import MOST, Ground, Trajectory, overlay_picture

    grounds: dict[str, Any] = {}
    groups: dict[str, list[RunLike]] = {}
    for record in records:
        about = record.facts.get("surface")
        if (
            not record.is_surface
            or not isinstance(about, dict)
            or not all((record.folder / f).is_file() for f in FILES)
        ):
            continue
        with np.load(record.folder / "surface.npz", allow_pickle=False) as file:
            x, y, values = file["x"], file["y"], file["values"]
        key = hashlib.sha256(x.tobytes() + y.tobytes() + values.tobytes()).hexdigest()
        grounds.setdefault(key, Ground(x, y, values, about))
        groups.setdefault(key, []).append(record)
    overlays, files = [], set()
    for key, group in groups.items():
        ground = grounds[key]
        paths = [Trajectory(name(r, group), r.facts["verdict"], columns(r.folder / FILES[0])) for r in group]
        file = free_name(folder, re.sub(r"\W+", "_", str(ground.about["title"]).lower()), files)
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
        overlays.append(Overlay(title, file, picture, rows, ground.about["tolerance"], max(0, len(paths) - MOST)))
    return overlays


def free_name(folder: Path, stem: str, files: set[str]) -> str:
    """Return a free file name and add it to `files`: `surface_ravine.png`, else `surface_ravine_2.png` and so on."""
    numbers = (f"surface_{stem}{'' if n == 1 else f'_{n}'}.png" for n in itertools.count(1))
    name = next(name for name in numbers if name not in files and _is_free(folder / name))
    files.add(name)
    return name


def _is_free(path: Path) -> bool:
    """Return whether `path` does not exist, or is a picture that this program wrote."""
    if not os.path.lexists(path):
        return True
    return path.is_file() and not path.is_symlink() and PICTURE_MARK in path.read_bytes()[:100]


def columns(file: Path) -> dict[str, list[float]]:
    """Read the columns of a trajectory; an empty cell is NaN."""
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}
