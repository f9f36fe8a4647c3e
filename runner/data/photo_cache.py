"""Cache of facts about photo files: content hashes, decoded pixels, broken files. Stale entries are detected."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.core.errors import ConfigError
from runner.data import decode
from runner.data.stream import in_order
from runner.store.cache import LIMIT, Cache, name

log = logging.getLogger(__name__)

IN_PROCESS = 500  # fewer photos are decoded in this process, because starting workers takes longer
TASK = 16  # photos in a worker's task
SETTLED_NS = 2_000_000_000  # a file younger than this may change again under the same stamp


@dataclass(frozen=True)
class PhotoFacts:
    """Facts from decoding a set of photos, in their order in the set."""

    moments: list[list[list[int]]]  # [N, 3, 2], see `decode.moments`
    broken: dict[str, str]  # position -> what is wrong with the file


def content_hashes(root: Path, names: list[str], cache: Cache) -> list[str]:
    """Return the sha256 of each file; files with unchanged stamps are not read again."""
    key = name("files", str(root.resolve()))
    entry = cache.load(key)
    cached = {} if entry is None else entry.content
    updated, hashes = {}, []
    for file in names:
        stamp = file_stamp(root / file)
        old = cached.get(file)
        content = old[1] if old and old[0] == stamp else decode.content_hash(str(root / file))
        if is_settled(stamp):
            updated[file] = [stamp, content]
        hashes.append(content)
    if updated != cached:
        cache.save(key, 0, lambda _: updated)
    return hashes


def file_stamp(path: Path) -> list[int]:
    """Return a file's size and times of change, which tell an edit; empty where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # ctime: copies may keep an old mtime


def is_settled(stamp: list[int]) -> bool:
    """Return whether the file is old enough that any further change alters its stamp."""
    return bool(stamp) and time.time_ns() - max(stamp[1:]) >= SETTLED_NS


def photos(
    cache: Cache, key: str, paths: list[str], side: int, workers: int, keep: bool
) -> tuple[Tensor | None, PhotoFacts]:
    """Decode photos, or load them from the cache; return their pixels uint8 [N, 3, side, side] if `keep`, and facts.

    key: sha256 of all their contents. Broken photos are zeros.
    """
    workers = workers if len(paths) >= IN_PROCESS else 0
    size = len(paths) * 3 * side * side if keep else 0

    def write(put: Callable[[bytes], None]) -> dict:
        log.info("decoding %d photos", len(paths))
        return asdict(_decode_all(paths, side, workers, put if keep else lambda _: None))

    try:
        entry = cache.get(name("photos" if keep else "scans", key, side, decode.FORMAT), lambda: (size, write))
    except MemoryError as error:
        way_out = f"raise {LIMIT}, or set data.resident=false"
        raise ConfigError(f"{size / 1e9:.3g} GB of photos fit neither the cache nor memory; {way_out}") from error
    pixels = torch.frombuffer(entry.payload, dtype=torch.uint8).view(-1, 3, side, side) if keep else None
    return pixels, PhotoFacts(**entry.content)


def _decode_all(paths: list[str], side: int, workers: int, put: Callable[[bytes], None]) -> PhotoFacts:
    """Decode all photos in order, pass the pixels of each to `put` (zeros for a broken one) and return the facts."""
    moments, broken = [], {}
    tasks = [paths[start : start + TASK] for start in range(0, len(paths), TASK)]
    for decoded in in_order(tasks, side, workers):
        for pixels, error in decoded:
            if error is not None:
                broken[str(len(moments))] = error
                pixels = np.zeros((3, side, side), np.uint8)
            put(pixels.tobytes())
            moments.append(decode.moments(pixels).tolist())
    return PhotoFacts(moments, broken)
