"""Cache of arrays read from slow file formats; later processes map them into memory."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runner.data.photo_cache import file_stamp, is_settled
from runner.data.splits import ResidentSplit, Source
from runner.store.cache import name, open_cache
from runner.store.entry import CacheEntry, Write

PARTS = ("train", "test")


def source(files: Path, about: Any, cache_dir: str | None, read: Callable[[], Source]) -> Source:
    """Return the source that `read` loads from files, from the cache if none of the files has changed.

    files: a folder, or one file beside the others of the set. about: JSON values of all else that `read` depends on.
    """
    stamps = _stamps(files)
    if not stamps or not all(map(is_settled, stamps.values())):
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
    """Return the stamps of the set's files by their relative paths."""
    folder = files if files.is_dir() else files.parent
    paths = folder.rglob("*") if files.is_dir() else folder.glob("*")
    stamps = {path.relative_to(folder).as_posix(): file_stamp(path) for path in sorted(paths) if not path.is_dir()}
    return {path: stamp for path, stamp in stamps.items() if stamp}


def _source(entry: CacheEntry) -> Source:
    """Cut an entry's payload into labels int64 [N] and images uint8 [N, C, H, W] of each part."""
    shapes, offset = entry.content["shapes"], 0
    labels, images = [], []
    for shape in shapes:
        labels.append(torch.frombuffer(entry.payload, dtype=torch.int64, count=shape[0], offset=offset))
        offset += labels[-1].nbytes
    for shape in shapes:
        pixels = torch.frombuffer(entry.payload, dtype=torch.uint8, count=math.prod(shape), offset=offset)
        images.append(pixels.view(shape))
        offset += images[-1].nbytes
    train, test = map(ResidentSplit, images, labels)
    content = entry.content
    return Source(train, None, test, tuple(content["classes"]), content["identity"], shapes[0][-1])
