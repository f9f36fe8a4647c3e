"""Arrays that were read from files of a format of their own, kept for the next process, which maps them into memory."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runner.data.photo_cache import settled, stamped
from runner.data.splits import ResidentSplit, Source
from runner.store.cache import name, open_cache
from runner.store.entry import CacheEntry, Write

PARTS = ("train", "test")


def source(files: Path, about: Any, cache_dir: str | None, read: Callable[[], Source]) -> Source:
    """Load what `read` makes of `files`, or what it once made of them, if none of those that lie there has changed.

    `files` is a folder, or a file that may lie beside others of the set; `about`: what else `read` goes by.
    """
    stamps = _stamps(files)
    if not stamps or not all(map(settled, stamps.values())):
        return read()

    def make() -> tuple[int, Write]:
        loaded = read()
        splits = [getattr(loaded, part) for part in PARTS]
        arrays = [split.labels.numpy() for split in splits] + [split.images.numpy() for split in splits]

        def write(put: Callable[[bytes], None]) -> dict[str, Any]:
            for array in arrays:
                put(array.tobytes())
            shapes = [split.images.shape for split in splits]
            return {"classes": loaded.classes, "identity": loaded.identity, "shapes": shapes}

        return sum(array.nbytes for array in arrays), write

    return _source(open_cache(cache_dir).get(name("arrays", str(files.resolve()), about, stamps), make))


def _stamps(files: Path) -> dict[str, list[int]]:
    """Of the files of the set, by their paths."""
    home = files if files.is_dir() else files.parent
    there = home.rglob("*") if files.is_dir() else home.glob("*")
    stamps = {path.relative_to(home).as_posix(): stamped(path) for path in sorted(there) if not path.is_dir()}
    return {name: stamp for name, stamp in stamps.items() if stamp}


def _source(entry: CacheEntry) -> Source:
    """Cut an entry's payload into labels int64 [N] and images uint8 [N, C, H, W] of each part."""
    shapes, at = entry.content["shapes"], 0
    labels, images = [], []
    for shape in shapes:
        labels.append(torch.frombuffer(entry.payload, dtype=torch.int64, count=shape[0], offset=at))
        at += labels[-1].nbytes
    for shape in shapes:
        images.append(torch.frombuffer(entry.payload, dtype=torch.uint8, count=math.prod(shape), offset=at).view(shape))
        at += images[-1].nbytes
    train, test = map(ResidentSplit, images, labels)
    content = entry.content
    return Source(train, None, test, tuple(content["classes"]), content["identity"], shapes[0][-1])
