"""Arrays that were read from files of a format of their own, kept for the next process, which maps them into memory."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runner.data import arrays, cache
from runner.data.splits import Source
from runner.errors import ConfigError
from runner.files import write_atomic

log = logging.getLogger(__name__)

PARTS = ("train", "test")


def source(files: Path, about: Any, cache_dir: str | None, where: str, read: Callable[[], Source]) -> Source:
    """What `read` makes of `files`, or what it once made of them, if none of those that lie there has changed since.

    `files` is a folder, or a file that may lie beside others of the set; `about`: what else `read` goes by. Kept arrays
    whose contents are no longer what they were are made again. `where` names the set.
    """
    stamps = _stamps(files)
    name = hashlib.sha256(json.dumps([str(files.resolve()), about]).encode()).hexdigest()[:32]
    folder = cache.open_folder(cache_dir) if stamps else None
    if folder is None:
        return read()
    record = folder / f"arrays-{name}.json"
    found = _kept(record, stamps, where)
    if found is None:
        found = read()
        if all(map(cache.settled, stamps.values())):
            _keep(record, stamps, found)
    return found


def _stamps(files: Path) -> dict[str, list[int]]:
    """Of the files of the set, by their paths."""
    home = files if files.is_dir() else files.parent
    there = home.rglob("*") if files.is_dir() else home.glob("*")
    stamps = {path.relative_to(home).as_posix(): cache.stamped(path) for path in sorted(there) if not path.is_dir()}
    return {name: stamp for name, stamp in stamps.items() if stamp}


def _kept(record: Path, stamps: dict[str, list[int]], where: str) -> Source | None:
    content = cache.unseal(record)
    if content is None or content["files"] != stamps:
        return None
    try:  # copy-on-write: torch warns of read-only memory; unwritten pages are shared all the same
        pairs = {part: tuple(np.load(_store(record, part, kind), mmap_mode="c") for kind in "xy") for part in PARTS}
        found = arrays.source(pairs, tuple(content["classes"]), where)
        if found.identity == content["identity"]:
            return found
    except (OSError, EOFError, ValueError, ConfigError):  # gone, cut short, or of numbers that cannot be: said below
        pass
    log.warning("the data's cache '%s' is damaged; making it again", record)
    return None


def _keep(record: Path, stamps: dict[str, list[int]], found: Source) -> None:
    try:
        for part in PARTS:
            split = getattr(found, part)
            for kind, tensor in (("x", split.images), ("y", split.labels)):
                array = tensor.numpy()
                write_atomic(_store(record, part, kind), lambda file, it=array: np.save(file, it), durable=False)
        cache.seal(record, {"files": stamps, "classes": found.classes, "identity": found.identity})
    except OSError as error:
        log.warning("the arrays cannot be kept in '%s' (%s): they are read again", record.parent, error)


def _store(record: Path, part: str, kind: str) -> Path:
    return record.with_name(f"{record.stem}-{kind}_{part}.npy")
