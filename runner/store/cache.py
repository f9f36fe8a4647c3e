"""A cache on disk: entries under the digest of what they depend on, up to a size. Imports no torch."""

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
FORMAT = 1  # of entries: part of every name
# All that may be evicted: entries, their locks, what a killed writer left, and entries of the format before this one.
OURS = re.compile(
    r"\.?(files|scans|photos|arrays|features)-[0-9a-f]{32}"
    r"(\.cache|\.lock|(-[xy]_(train|test))?\.npy|\.json|\.bin)(\.[a-z0-9_]{8})?"
)


def home() -> Path:
    """Return the folder of all that the runner keeps for later commands."""
    return (Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "runner").expanduser()


def limit() -> float:
    """Return how many bytes a cache may take. ConfigError: the environment variable is no size."""
    text = os.environ.get(LIMIT) or GB
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not size >= 0:  # NaN too
        raise ConfigError(f"{LIMIT}={text}: no number of gigabytes; type {LIMIT}={GB}, or {LIMIT}=0 for no cache")
    return size * 1e9


def open_cache(cache_dir: str | None) -> "Cache":
    """Return the cache in a folder, made if need be; one that keeps nothing, with a warning, where it is not writable.

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
    """Return an entry's name. `key`: JSON values, all that the entry depends on."""
    return f"{kind}-{hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Cache:
    """Entries in a folder (None: nothing is kept) that take at most `limit` bytes; any process may add to it.

    Entries unused for longest are evicted before a new one is written. One that a living process uses stays: a local
    mapping would outlive its name, but the process would have to make it again, and over NFS it would crash.
    """

    folder: Path | None
    limit: float = math.inf

    def get(self, name: str, make: Callable[[], tuple[int, Write]]) -> CacheEntry:
        """Return the entry of this name; made unless there, in memory where it cannot be kept.

        `make()` gives the payload's size in bytes and the function that writes it. Of several processes that need an
        entry one makes it, and the others wait.
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

        def put(file: BinaryIO) -> None:
            hold(file)
            self._reserve(file, DIGEST + size)
            fill(file, write)

        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # it may be deleted at any time
            write_atomic(path, put, durable=False)
            return read(path, is_new=True)
        except OSError as error:
            _warn(self.folder, error.strerror or str(error))
            return None

    def remove(self, name: str) -> None:
        """Remove an entry that turned out wrong."""
        if self.folder is not None:
            remove(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.cache"

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Give a new file `size` bytes, which other processes count from now on. OSError: there is no room."""
        if size > self.limit:
            raise OSError(errno.ENOSPC, f"an entry takes {size / 1e9:.3g} GB, and {LIMIT}={self.limit / 1e9:g}")
        with locked(self.folder / ".runner-cache.lock"):
            files = self._files()
            total = size + sum(length for _, length, _ in files)
            for _, length, path in files:
                if total > self.limit and evict(path):
                    total -= length
            if total > self.limit:
                raise OSError(errno.ENOSPC, f"all of it is in use, and {LIMIT}={self.limit / 1e9:g}")
            if size > shutil.disk_usage(self.folder).free:  # known now, not after an hour of decoding
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate(size)

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return last use, size and path of each file of ours, the one unused for longest first."""
        files = []
        with os.scandir(self.folder) as items:
            for item in items:
                if OURS.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # removed by another process
                        files.append((item.stat().st_mtime_ns, item.stat().st_size, Path(item.path)))
        return sorted(files)


@functools.cache  # once a process, not once an entry
def _warn(folder: Path, reason: str) -> None:
    text = "what would be kept there stays in memory, and the next command makes it again"
    where = "data.cache_dir or XDG_CACHE_HOME names another folder"
    log.warning("cache '%s' cannot be written: %s; %s (%s)", folder, reason, text, where)
