"""Image folders: photos in one folder a class."""

import os
from pathlib import Path
from typing import Literal

import numpy as np

from runner.core.errors import ConfigError
from runner.data import photos
from runner.data.decode import SUFFIXES
from runner.data.photos import Decoding, Parts
from runner.data.splits import Source, expand_root

VALIDATION = ("val", "valid", "validation")  # accepted names of that folder
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
    """Load the folders `train`, `val` and `test`. If only one of `val` and `test` is there, it is the test split.

    Without both, `test_fraction` of each class is split off for testing: always the same photos, whatever
    `split_seed` is. ConfigError: no folder, no images, an empty class, classes that differ.
    """
    folder = expand_root(root)
    decoding = Decoding(resize, size, resident, budget_gb, workers, on_corrupt, cache_dir)
    parts, classes = _parts(folder, test_fraction)
    return photos.source(folder, parts, classes, decoding)


def _parts(root: Path, test_fraction: float) -> tuple[Parts, tuple[str, ...]]:
    if not root.is_dir():
        raise ConfigError(f"data.root='{root}': no such folder; looked for {LAYOUT}")
    names = [folder.name for folder in _folders(root)]
    val = next((name for name in VALIDATION if name in names), None)
    test = "test" if "test" in names else None
    if "train" not in names:
        if val or test:
            raise ConfigError(f"data.root='{root}' has '{val or test}' but no 'train'; looked for {LAYOUT}")
        return _cut(*_read(root, ""), test_fraction)
    train, classes = _read(root, "train")
    if not val and not test:
        return _cut(train, classes, test_fraction)
    parts = {"train": train}
    for part, name in (("val", val if test else None), ("test", test or val)):
        if name is not None:
            parts[part], part_classes = _read(root, name)
            _check_classes(classes, part_classes, name)
    return parts, classes


def _read(root: Path, part: str) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Return the photos of the class folders in `root/part`, sorted, with their labels; and the class names."""
    base = root / part
    folders = _folders(base)
    if not folders:
        raise ConfigError(f"data.root='{root}': no class folders in '{base.name}', so no images; wanted: {LAYOUT}")
    photos_of = {folder.name: _images(folder) for folder in folders}
    if not any(photos_of.values()):
        raise ConfigError(f"data.root='{root}': no images in '{base.name}'; wanted: {LAYOUT}")
    empty = [name for name, paths in photos_of.items() if not paths]
    if empty:
        kinds = " ".join(sorted(SUFFIXES))
        raise ConfigError(f"class folder '{base / empty[0]}' has no images ({kinds}); fill or remove it")
    if not part and all(photo.parent != base / name for name in photos_of for photo in photos_of[name]):
        names = ", ".join(photos_of)
        raise ConfigError(f"data.root='{root}': {names} hold only folders; call splits train, val, test: {LAYOUT}")
    members = [
        (photo.relative_to(root).as_posix(), label) for label, paths in enumerate(photos_of.values()) for photo in paths
    ]
    return members, tuple(photos_of)


def _folders(base: Path) -> list[Path]:
    return sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Return all image files below a folder, also through links, without hidden ones (`._x.jpg` of a Mac)."""
    return sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )


def _check_classes(train: tuple[str, ...], classes: tuple[str, ...], name: str) -> None:
    missing = sorted(set(train) - set(classes))
    extra = sorted(set(classes) - set(train))
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"also has {', '.join(extra)}"] if extra else []
        raise ConfigError(f"the classes in '{name}' differ from those in 'train': it {' and '.join(parts)}")


def _cut(
    members: list[tuple[str, int]], classes: tuple[str, ...], test_fraction: float
) -> tuple[Parts, tuple[str, ...]]:
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test_fraction={test_fraction}: there is no test folder; between 0 and 1 is wanted")
    generator = np.random.RandomState(0)  # the legacy generator, because its stream never changes
    test_rows: set[int] = set()
    labels = np.array([label for _, label in members])
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise ConfigError(f"class '{name}' has one image; a test split is cut off, so at least two are needed")
        count = min(max(1, round(test_fraction * len(rows))), len(rows) - 1)
        test_rows.update(generator.permutation(rows)[:count].tolist())
    train = [member for row, member in enumerate(members) if row not in test_rows]
    return {"train": train, "test": [members[row] for row in sorted(test_rows)]}, classes
