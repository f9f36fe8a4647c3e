"""torchvision's sets of photos: its classes find the files and labels, the rest is `runner.data.photos`."""

import os
from pathlib import Path
from typing import Literal

from runner.data import photos
from runner.data.photos import Decoding
from runner.data.splits import Source, place
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
    """`torchvision.datasets.<dataset>`, its splits being the arguments `train`, `test` and, if any, `val`.

    `files` is what must lie in `root`; `paths` and `labels` are the attributes with the files and labels.
    """
    how = Decoding(resize, size, resident, budget_gb, workers, on_corrupt, cache_dir)
    parts = {}
    folder = place(root)
    for part, arguments in (("train", train), ("val", val), ("test", test)):
        if arguments is not None:
            found = torchvision_set(folder, dataset, files, arguments, download)
            names = [Path(os.path.relpath(path, folder)).as_posix() for path in getattr(found, paths)]
            parts[part] = list(zip(names, getattr(found, labels), strict=True))
            classes = tuple(found.classes)
    return photos.source(folder, parts, classes, how)
