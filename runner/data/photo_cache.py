"""What is remembered about files of data: hashes, pixels, which ones are broken. Checked before it is trusted."""

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

IN_PROCESS = 500  # fewer photos are decoded sooner than worker processes start
TASK = 16  # photos a worker decodes at a time
SETTLED_NS = 2_000_000_000  # a file changed later than that before its hash was taken may change again unseen


@dataclass(frozen=True)
class PhotoFacts:
    """What decoding a set of photos showed, by their order in the set."""

    moments: list[list[list[int]]]  # [N, 3, 2], see `decode.moments`
    broken: dict[str, str]  # position -> what is wrong with the file


def content_hashes(root: Path, names: list[str], cache: Cache) -> list[str]:
    """Sha256 of each file; one whose size and times of change are as remembered is not read again."""
    key = name("files", str(root.resolve()))
    entry = cache.load(key)
    remembered = {} if entry is None else entry.content
    known, result = {}, []
    for file in names:
        stamp = stamped(root / file)
        before = remembered.get(file)
        content = before[1] if before and before[0] == stamp else decode.content_hash(str(root / file))
        if settled(stamp):
            known[file] = [stamp, content]
        result.append(content)
    if known != remembered:
        cache.save(key, 0, lambda _: known)
    return result


def stamped(path: Path) -> list[int]:
    """By what a file is known to be as it was; empty where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]  # ctime: copies may keep an old mtime


def settled(stamp: list[int]) -> bool:
    """Whether a file that changes from now on will have another stamp."""
    return bool(stamp) and time.time_ns() - max(stamp[1:]) >= SETTLED_NS


def photos(
    cache: Cache, key: str, paths: list[str], side: int, workers: int, keep: bool
) -> tuple[Tensor | None, PhotoFacts]:
    """Decodes the photos once: what was seen, and if `keep` their pixels uint8 [N, 3, side, side].

    `key` is the sha256 of all their contents. Broken photos are zeros.
    """
    workers = workers if len(paths) >= IN_PROCESS else 0
    size = len(paths) * 3 * side * side if keep else 0

    def decoded(put: Callable[[bytes], None]) -> dict:
        log.info("decoding %d photos", len(paths))
        return asdict(_look(paths, side, workers, put if keep else lambda _: None))

    try:
        entry = cache.get(name("photos" if keep else "scans", key, side, decode.FORMAT), lambda: (size, decoded))
    except MemoryError as error:
        wanted = f"raise {LIMIT}, or set data.resident=false"
        raise ConfigError(f"{size / 1e9:.3g} GB of photos fit neither the cache nor memory; {wanted}") from error
    pixels = torch.frombuffer(entry.payload, dtype=torch.uint8).view(-1, 3, side, side) if keep else None
    return pixels, PhotoFacts(**entry.content)


def _look(paths: list[str], side: int, workers: int, put: Callable[[bytes], None]) -> PhotoFacts:
    """Decodes all photos in order and hands each one's pixels to `put`, zeros for a broken one."""
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
