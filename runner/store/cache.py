"""Content-addressed cache on disk: entries named by a digest of their inputs, up to a total size. Imports no torch."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runner.core.errors import ConfigError
from runner.store.entry import DIGEST, CacheEntry, Write, evict, fill, hold, in_memory, locked, read, remove
from runner.store.files import write_atomic

log = logging.getLogger(__name__)

LIMIT = "RUNNER_CACHE_GB"  # the environment variable
GB = "50"  # its default
FORMAT = 1  # of entries; part of every name
# Files that may be evicted: entries, their locks, temporary files of killed writers, entries of the previous format.
OURS = re.compile(
    r"\.?(files|scans|photos|arrays|features)-[0-9a-f]{32}"
    r"(\.cache|\.lock|(-[xy]_(train|test))?\.npy|\.json|\.bin)(\.[a-z0-9_]{8})?"
)


def home() -> Path:
    """Return the folder of files that the runner keeps for later commands."""
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "runner").expanduser()


def limit() -> float:
    """Return the size limit of a cache in bytes. ConfigError: the environment variable is no size."""
    text = os.environ.get(LIMIT) or GB
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not size >= 0:  # NaN too
        raise ConfigError(f"{LIMIT}={text}: no number of gigabytes; type {LIMIT}={GB}, or {LIMIT}=0 for no cache")
    return size * 1e9


def open_cache(cache_dir: str | None) -> "Cache":
    """Return the cache in a folder; warn and return one that keeps nothing where the folder is not writable.

    ConfigError: see `limit`.
    """
    folder = Path(cache_dir).expanduser() if cache_dir else home()
    size = limit()
    if not size:
        return Cache(None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return Cache(folder, size)
        reason = os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror
    _warn(folder, reason)
    return Cache(None)


def name(kind: str, *key: Any) -> str:
    """Return an entry's name. `key`: JSON values of all inputs of the entry."""
    return f"{kind}-{hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Cache:
    """Cache in a folder (None: nothing is kept) of at most `limit` bytes, shared by all processes.

    Before a new entry is written, the least recently used ones are evicted. An entry in use by a living process stays:
    a local mapping would outlive the file, but the process would have to make it again, and over NFS it would crash.
    """

    folder: Path | None
    limit: float = math.inf

    def get(self, name: str, make: Callable[[], tuple[int, Write]]) -> CacheEntry:
        """Return the entry of this name; make it where it is missing, in memory where it cannot be written.

        `make()` returns the payload's size in bytes and the function that writes it. Of several processes that need an
        entry, one makes it and the others wait.
        """
        entry = self.load(name)
        if entry is not None:
            return entry
        with locked(self.folder / f"{name}.lock", once=True) if self.folder else contextlib.nullcontext():
            entry = self.load(name)  # another process may have made it meanwhile
            if entry is None:
                size, write = make()
                entry = self.save(name, size, write)
        return in_memory(size, write) if entry is None else entry

    def load(self, name: str) -> CacheEntry | None:
        """Return the entry of this name; None where there is none, or, with a warning, where it is damaged."""
        if self.folder is None:
            return None
        path = self._path(name)
        try:
            entry = read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn(self.folder, error.strerror)
            return None
        if entry is None:
            log.warning("'%s' in the cache is damaged; making it again", path)
            remove(path)
        return entry

    def save(self, name: str, size: int, write: Write) -> CacheEntry | None:
        """Write an entry, see `get`, and return it; None, with a warning, where it cannot be kept."""
        if self.folder is None:
            return None
        path = self._path(name)

        def write_entry(file: BinaryIO) -> None:
            hold(file)
            self._reserve(file, DIGEST + size)
            fill(file, write)

        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # because a user may delete it at any time
            write_atomic(path, write_entry, durable=False)
            return read(path, is_new=True)
        except OSError as error:
            _warn(self.folder, error.strerror or str(error))
            return None

    def remove(self, name: str) -> None:
        """Remove an invalid entry."""
        if self.folder is not None:
            remove(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.cache"

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Extend a new file to `size` bytes, so that other processes count them. OSError: there is no room."""
        if size > self.limit:
            raise OSError(errno.ENOSPC, f"an entry takes {size / 1e9:.3g} GB, and {LIMIT}={self.limit / 1e9:g}")
        with locked(self.folder / ".runner-cache.lock"):
            files = self._files()
            total = size + sum(file_size for _, file_size, _ in files)
            for _, file_size, path in files:
                if total > self.limit and evict(path):
                    total -= file_size
            if total > self.limit:
                raise OSError(errno.ENOSPC, f"all of it is in use, and {LIMIT}={self.limit / 1e9:g}")
            if size > shutil.disk_usage(self.folder).free:  # fail now, not after an hour of decoding
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate(size)

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return (last use, size, path) of each of our files, the least recently used first."""
        files = []
        with os.scandir(self.folder) as items:
            for item in items:
                if OURS.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process
                        files.append((item.stat().st_mtime_ns, item.stat().st_size, Path(item.path)))
        return sorted(files)


@functools.cache  # once a process, not once an entry
def _warn(folder: Path, reason: str) -> None:
    consequence = "what would be kept there stays in memory, and the next command makes it again"
    way_out = "data.cache_dir or XDG_CACHE_HOME names another folder"
    log.warning("cache '%s' cannot be written: %s; %s (%s)", folder, reason, consequence, way_out)
