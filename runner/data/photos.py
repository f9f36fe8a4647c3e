"""Data sets of photo files: decoded into memory or streamed; broken files are refused or skipped."""

import hashlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from runner.core.errors import ConfigError
from runner.core.text import few
from runner.data import photo_cache as cache
from runner.data.splits import ResidentSplit, Source, Split
from runner.data.stream import StreamedSplit, worker_count
from runner.store.cache import open_cache

log = logging.getLogger(__name__)

Parts = dict[str, list[tuple[str, int]]]  # train, test and perhaps val: (path within the root, label) of each photo


@dataclass(frozen=True)
class Decoding:
    """Keys of the config for every data set of photos, see `runner.core.schema.Data`."""

    resize: int
    size: int
    resident: bool | Literal["auto"]
    budget_gb: float | None
    workers: int | Literal["auto"]
    on_corrupt: Literal["error", "skip"]
    cache_dir: str | None

    def __post_init__(self) -> None:
        if self.size > self.resize:
            limit = f"data.size may be at most {self.resize}"
            raise ConfigError(f"data.size={self.size} is larger than data.resize={self.resize}; {limit}")


def source(root: Path, parts: Parts, classes: tuple[str, ...], decoding: Decoding) -> Source:
    """Return a source from photo files. ConfigError: photos that cannot be read (unless they are to be skipped)."""
    files = [(part, name, label) for part, members in parts.items() for name, label in members]
    entries = open_cache(decoding.cache_dir)
    hashes = cache.content_hashes(root, [name for _, name, _ in files], entries)
    lines = [f"{part} {name} {classes[label]} {hashed}" for (part, name, label), hashed in zip(files, hashes)]
    paths = [str(root / name) for _, name, _ in files]
    workers = worker_count(decoding.workers)
    keep = _should_keep(len(files) * 3 * decoding.resize**2, decoding)
    pixels, facts = cache.photos(entries, _sha256(hashes), paths, decoding.resize, workers, keep)
    skipped = _skipped([name for _, name, _ in files], facts.broken, decoding.on_corrupt)
    moments = torch.tensor(facts.moments, dtype=torch.int64)
    readable = [index for index in range(len(files)) if str(index) not in facts.broken]

    def split(part: str) -> Split:
        rows = [index for index in readable if files[index][0] == part]
        labels = torch.tensor([files[row][2] for row in rows], dtype=torch.int64)
        if pixels is None:
            part_paths = [paths[row] for row in rows]
            return StreamedSplit(part_paths, labels, side=decoding.resize, workers=workers, moments=moments[rows])
        return ResidentSplit(pixels, labels, rows=torch.tensor(rows, dtype=torch.int64), moments=moments[rows])

    return Source(
        train=split("train"),
        val=split("val") if "val" in parts else None,
        test=split("test"),
        classes=classes,
        identity=_sha256([lines[index] for index in readable]),
        size=decoding.size,
        skipped=skipped,
    )


def available_memory() -> int:
    """Return the bytes of memory that this process may still take, of the machine or of its container."""
    if sys.platform != "linux":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (allowed := limit.read_text().strip()) != "max":
        free = min(free, int(allowed))
    return free


def _should_keep(needed: int, decoding: Decoding) -> bool:
    if decoding.resident != "auto":
        return decoding.resident
    budget = available_memory() / 2 if decoding.budget_gb is None else decoding.budget_gb * 1e9
    if needed > budget:
        log.info("photos take %.1f GB decoded, the budget is %.1f: streaming them", needed / 1e9, budget / 1e9)
    return needed <= budget


def _skipped(names: list[str], broken: dict[str, str], on_corrupt: str) -> tuple[str, ...]:
    skipped = [(names[int(index)], reason) for index, reason in broken.items()]
    if skipped and on_corrupt == "error":
        shown = few((f"'{name}' ({reason})" for name, reason in skipped), 3)
        count = f"{len(skipped)} image{'s' if len(skipped) > 1 else ''}"
        raise ConfigError(f"{count} cannot be read: {shown}; repair or remove, or data.on_corrupt=skip")
    if skipped:
        message = "%d of %d images cannot be read and are skipped, '%s' first"
        log.warning(message, len(skipped), len(names), skipped[0][0])
    return tuple(name for name, _ in skipped)


def _sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
