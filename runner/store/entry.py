"""Entry: one file of the cache, with functions to write, verify, memory-map and lock it.

A file is the hexadecimal sha256 of the rest, the payload, a line break, and the content as a line of JSON.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger(__name__)

DIGEST = 64  # hexadecimal digits

Write = Callable[[Callable[[bytes], None]], Any]  # write(put): puts the payload in parts and returns the content


@dataclass(frozen=True)
class CacheEntry:
    """Entry of the cache.

    payload: bytes, mapped copy-on-write from the file, or in memory. content: JSON. is_new: made by this call.
    """

    payload: memoryview
    content: Any
    is_new: bool


def in_memory(size: int, write: Write) -> CacheEntry:
    """Make an entry of `size` bytes in memory, without a file."""
    payload, offset = memoryview(bytearray(size)), 0

    def put(part: bytes) -> None:
        nonlocal offset
        payload[offset : offset + len(part)] = part
        offset += len(part)

    return CacheEntry(payload, write(put), True)


def fill(file: BinaryIO, write: Write) -> None:
    """Write an entry into an open file."""
    digest = hashlib.sha256()

    def put(part: bytes) -> None:
        digest.update(part)
        file.write(part)

    file.write(b" " * DIGEST)
    content = write(put)
    put(b"\n" + json.dumps(content).encode())
    file.seek(0)
    file.write(digest.hexdigest().encode())


def read(path: Path, is_new: bool = False) -> CacheEntry | None:
    """Return the entry in a file; None where it is damaged. OSError: it cannot be read.

    A new entry is not verified. The lock of `hold` lasts as long as the payload, because its mapping keeps the
    descriptor open.
    """
    with path.open("rb") as file:
        hold(file)
        digest = file.read(DIGEST)
        if not is_new and hashlib.file_digest(file, "sha256").hexdigest().encode() != digest:
            return None
        with contextlib.suppress(OSError):  # another user's file
            os.utime(path)  # the time of its last use
        # copy-on-write, because torch warns about read-only memory; unwritten pages are shared all the same
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    end = mapped.rfind(b"\n")
    return CacheEntry(memoryview(mapped)[DIGEST:end], json.loads(mapped[end + 1 :]), is_new)


def hold(file: BinaryIO) -> None:
    """Protect an open file from `evict`, in all processes, until it is closed and no mapping of it is left."""
    with contextlib.suppress(OSError):  # a file system without locks, where nothing is evicted
        fcntl.flock(file, fcntl.LOCK_SH)


def evict(path: Path) -> bool:
    """Remove a file and return True; False where it is in use, or another user's."""
    try:
        with path.open("r+b") as file:  # opened for writing, because NFS needs that for an exclusive lock
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file; ignore failures."""
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def locked(path: Path, once: bool = False) -> Iterator[None]:
    """Hold a lock file, and remove it afterwards if `once`; go on without where the file system has no locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(path.open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("waiting for another process, which holds '%s'", path)
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if once:
                remove(path)
