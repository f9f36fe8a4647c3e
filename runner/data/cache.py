"""What is remembered about files of data: hashes, pixels, which ones are broken. Checked before it is trusted."""

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from runner.data import decode
from runner.data.stream import in_order
from runner.files import write_atomic

log = logging.getLogger(__name__)

IN_PROCESS = 500  # fewer photos are decoded sooner than worker processes start
TASK = 16  # photos a worker decodes at a time
SETTLED_NS = 2_000_000_000  # a file changed later than that before its hash was taken may change again unseen


@dataclass(frozen=True)
class Facts:
    """What decoding a set of photos showed, by their order in the set."""

    moments: list[list[list[int]]]  # [N, 3, 2], see `decode.moments`
    broken: dict[str, str]  # position -> what is wrong with the file
    pixels: str | None  # sha256 of the .npy with the pixels, where they were stored


def home() -> Path:
    """Of all that the runner keeps for later runs."""
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "runner").expanduser()


def open_folder(cache_dir: str | None) -> Path | None:
    """The cache's folder, made if need be; None, with a warning, where nothing can be written."""
    folder = Path(cache_dir).expanduser() if cache_dir else home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        log.warning("no cache of the data: '%s' cannot be written (set data.cache_dir); decoding into memory", folder)
        return None
    return folder


def content_hashes(root: Path, names: list[str], folder: Path | None) -> list[str]:
    """Sha256 of each file; one whose size and times of change are as remembered is not read again."""
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]
    remembered = {} if folder is None else unseal(folder / f"files-{place}.json") or {}
    known, result = {}, []
    for name in names:
        stamp = stamped(root / name)
        entry = remembered.get(name)
        content = entry[1] if entry and entry[0] == stamp else decode.content_hash(str(root / name))
        if settled(stamp):
            known[name] = [stamp, content]
        result.append(content)
    if folder is not None and known != remembered:
        try:
            seal(folder / f"files-{place}.json", known)
        except OSError as error:
            log.warning("the hashes of the photos cannot be kept in '%s' (%s): all are read again", folder, error)
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
    folder: Path | None, key: str, paths: list[str], side: int, workers: int, keep: bool
) -> tuple[Tensor | None, Facts]:
    """Decodes the photos once: what was seen, and if `keep` their pixels uint8 [N, 3, side, side].

    `key` is the sha256 of all their contents. The pixels are mapped from a file in `folder`, which is checked
    each time; without a folder they are in memory. Broken photos are zeros.
    """
    workers = workers if len(paths) >= IN_PROCESS else 0
    if folder is not None:
        name = hashlib.sha256(f"{key} {side} {decode.FORMAT}".encode()).hexdigest()[:32]
        record, store = folder / f"photos-{name}.json", folder / f"photos-{name}.npy"
        try:
            facts = _remembered(record, store, keep)
            if facts is None:
                log.info("decoding %d photos once, for the cache", len(paths))
                facts = _store(store, paths, side, workers) if keep else _look(paths, side, workers, _forget)
                seal(record, asdict(facts))
            # copy-on-write: torch warns of read-only memory; unwritten pages are shared all the same
            pixels = torch.from_numpy(np.load(store, mmap_mode="c", allow_pickle=False)) if keep else None
            return pixels, facts
        except OSError as error:
            log.warning("no photo cache: writing '%s' failed (%s); decoding into memory", store, error)
    if not keep:
        return None, _look(paths, side, workers, _forget)
    memory = np.empty((len(paths), 3, side, side), np.uint8)
    rows = iter(memory)
    return torch.from_numpy(memory), _look(paths, side, workers, lambda pixels: np.copyto(next(rows), pixels))


def _remembered(record: Path, store: Path, keep: bool) -> Facts | None:
    """The facts, if they are there, whole, and (if `keep`) the pixels are those they were written with."""
    if (content := unseal(record)) is None:
        return None
    facts = Facts(**content)
    if not keep:
        return facts
    if facts.pixels is None:
        return None  # the photos were only looked at, for streaming
    found = decode.content_hash(str(store))
    if found != facts.pixels:
        log.warning("the data's cache '%s' is damaged or gone; making it again", store)
        return None
    return facts


def _store(store: Path, paths: list[str], side: int, workers: int) -> Facts:
    """Decodes into `store`, an .npy file; two processes that do so at once write the same bytes."""
    result: list[Facts] = []
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        def add(content: bytes) -> None:
            digest.update(content)
            file.write(content)

        header = io.BytesIO()
        shape = (len(paths), 3, side, side)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        add(header.getvalue())
        result.append(_look(paths, side, workers, lambda pixels: add(pixels.tobytes())))

    write_atomic(store, write, durable=False)
    return Facts(result[0].moments, result[0].broken, digest.hexdigest())


def _look(paths: list[str], side: int, workers: int, put: Callable[[np.ndarray], None]) -> Facts:
    """Decodes all photos in order and hands each one's pixels to `put`, zeros for a broken one."""
    moments, broken = [], {}
    tasks = [paths[start : start + TASK] for start in range(0, len(paths), TASK)]
    for decoded in in_order(tasks, side, workers):
        for pixels, error in decoded:
            if error is not None:
                broken[str(len(moments))] = error
                pixels = np.zeros((3, side, side), np.uint8)
            put(pixels)
            moments.append(decode.moments(pixels).tolist())
    return Facts(moments, broken, None)


def _forget(pixels: np.ndarray) -> None:
    """Where only readability and moments are wanted."""


def seal(path: Path, content: Any) -> None:
    """Writes JSON with its own checksum."""
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    write_atomic(path, json.dumps({"sha256": checksum, "content": content}), durable=False)


def unseal(path: Path) -> Any:
    """What `seal` wrote; None where there is nothing, or, with a warning, where it is damaged."""
    try:
        sealed = json.loads(path.read_bytes())
        checksum = hashlib.sha256(json.dumps(sealed["content"], sort_keys=True).encode()).hexdigest()
        if checksum == sealed["sha256"]:
            return sealed["content"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not readable, no JSON, or not ours: said below
    log.warning("the data's cache '%s' is damaged; making it again", path)
    return None
