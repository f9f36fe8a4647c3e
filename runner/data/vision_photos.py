"""Data sets of photos from torchvision: its classes list files and labels, `runner.data.photos` does the rest."""

import os
from pathlib import Path
from typing import Literal

from runner.data import photos
from runner.data.photos import Decoding
from runner.data.splits import Source, expand_root
from runner.data.vision import torchvision_set


def load(
    root: str | None,
    dataset: str,
    files: str,
    paths: str,
    train: dict[str, bool | str],
    test: dict[str, bool | str],
    val: dict[str, bool | str] | None = None,
    labels: str = "_labels",
    download: bool = False,
    resize: int = 72,
    size: int = 64,
    resident: bool | Literal["auto"] = "auto",
    budget_gb: float | None = None,
    workers: int | Literal["auto"] = "auto",
    on_corrupt: Literal["error", "skip"] = "error",
    cache_dir: str | None = None,
) -> Source:
    """Load `torchvision.datasets.<dataset>`; `train`, `test` and `val` (if any) are its arguments for the splits.

    files: path that must exist in `root`. paths, labels: attributes with the files and labels.
    """
    decoding = Decoding(resize, size, resident, budget_gb, workers, on_corrupt, cache_dir)
    parts = {}
    folder = expand_root(root)
    for part, arguments in (("train", train), ("val", val), ("test", test)):
        if arguments is not None:
            loaded = torchvision_set(folder, dataset, files, arguments, download)
            names = [Path(os.path.relpath(path, folder)).as_posix() for path in getattr(loaded, paths)]
            parts[part] = list(zip(names, getattr(loaded, labels), strict=True))
            classes = tuple(loaded.classes)
    return photos.source(folder, parts, classes, decoding)
