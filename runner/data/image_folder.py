"""Folders of photos, one folder a class."""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from runner.core.errors import ConfigError
from runner.data import photos
from runner.data.decode import SUFFIXES
from runner.data.photos import Decoding, Parts
from runner.data.splits import Source, place

VALIDATION = ("val", "valid", "validation")  # names that people give to that folder
LAYOUT = "train/CLASS/*.jpg beside val/ and test/ (or one of them), or CLASS/*.jpg"


def load(
    root: str | None,
    test_fraction: float = 0.2,
    resize: int = 72,
    size: int = 64,
    resident: bool | Literal["auto"] = "auto",
    budget_gb: float | None = None,
    workers: int | Literal["auto"] = "auto",
    on_corrupt: Literal["error", "skip"] = "error",
    cache_dir: str | None = None,
) -> Source:
    """Folders `train`, and one of `val` and `test` (that is the test split) or both (each is what it says).

    Where there is no second folder, `test_fraction` of each class is cut off for testing: always the same
    photos, whatever `split_seed` is. ConfigError: no folder, no images, an empty class, classes that differ.
    """
    folder = place(root)
    how = Decoding(resize, size, resident, budget_gb, workers, on_corrupt, cache_dir)
    parts, classes = _parts(folder, test_fraction)
    return photos.source(folder, parts, classes, how)


def _parts(root: Path, test_fraction: float) -> tuple[Parts, tuple[str, ...]]:
    if not root.is_dir():
        raise ConfigError(f"data.root='{root}': no such folder; looked for {LAYOUT}")
    inside = [folder.name for folder in _folders(root)]
    val = next((name for name in VALIDATION if name in inside), None)
    test = "test" if "test" in inside else None
    if "train" not in inside:
        if val or test:
            raise ConfigError(f"data.root='{root}' has '{val or test}' but no 'train'; looked for {LAYOUT}")
        return _cut(*_read(root, ""), test_fraction)
    train, classes = _read(root, "train")
    if not val and not test:
        return _cut(train, classes, test_fraction)
    parts = {"train": train}
    for part, name in (("val", val if test else None), ("test", test or val)):
        if name is not None:
            parts[part], found = _read(root, name)
            _same_classes(classes, found, name)
    return parts, classes


def _read(root: Path, part: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """The photos of the class folders in `root/part`, sorted, and the names of the classes."""
    base = root / part
    folders = _folders(base)
    if not folders:
        raise ConfigError(f"data.root='{root}': no class folders in '{base.name}', so no images; wanted: {LAYOUT}")
    photos_of = {folder.name: _images(folder) for folder in folders}
    if not any(photos_of.values()):
        raise ConfigError(f"data.root='{root}': no images in '{base.name}'; wanted: {LAYOUT}")
    empty = [name for name, found in photos_of.items() if not found]
    if empty:
        kinds = " ".join(sorted(SUFFIXES))
        raise ConfigError(f"class folder '{base / empty[0]}' has no images ({kinds}); fill or remove it")
    if not part and all(photo.parent != base / name for name in photos_of for photo in photos_of[name]):
        names = ", ".join(photos_of)
        raise ConfigError(f"data.root='{root}': {names} hold only folders; call splits train, val, test: {LAYOUT}")
    members = [
        (photo.relative_to(root).as_posix(), label) for label, found in enumerate(photos_of.values()) for photo in found
    ]
    return members, tuple(photos_of)


def _folders(base: Path) -> list[Path]:
    return sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """All image files below `folder`, also through links; hidden ones (`._x.jpg` of a Mac) are none."""
    return sorted(
        Path(where) / name
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )


def _same_classes(train: tuple[str, ...], found: tuple[str, ...], name: str) -> None:
    missing = sorted(set(train) - set(found))
    extra = sorted(set(found) - set(train))
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"also has {', '.join(extra)}"] if extra else []
        raise ConfigError(f"the classes in '{name}' differ from those in 'train': it {' and '.join(parts)}")


def _cut(
    members: list[tuple[str, int]], classes: tuple[str, ...], test_fraction: float
) -> tuple[Parts, tuple[str, ...]]:
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test_fraction={test_fraction}: there is no test folder; between 0 and 1 is wanted")
    random = np.random.RandomState(0)  # the legacy generator: its stream is frozen for ever
    testing: set[int] = set()
    labels = np.array([label for _, label in members])
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise ConfigError(f"class '{name}' has one image; a test split is cut off, so at least two are needed")
        count = min(max(1, round(test_fraction * len(rows))), len(rows) - 1)
        testing.update(random.permutation(rows)[:count].tolist())
    train = [member for row, member in enumerate(members) if row not in testing]
    return {"train": train, "test": [members[row] for row in sorted(testing)]}, classes
