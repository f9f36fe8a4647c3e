"""Lock of a run: two terminals, or two machines on a shared disk, share a sweep without training a run twice.

The lock is a file in the run's folder with the process that trains the run, and its progress. The lock of a dead
process is taken over. On this host its pid and start time tell, on another host its heartbeat.
"""

import contextlib
import functools
import json
import logging
import math
import os
import platform
import threading
import uuid
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from runner.core.listener import Listener
from runner.store.files import write_json

log = logging.getLogger(__name__)

FILE = "lock.json"
GUARD = ".guard"  # held while a lock changes its owner
BEAT = 1.0  # seconds between two heartbeats
LEASE = 60.0  # seconds without a heartbeat after which the process of another host counts as dead


@functools.cache
def host() -> str:
    """Return an identifier of this host. Containers of one machine count as different hosts."""
    # because they do not see each other's processes
    parts = [platform.node()]
    for path, reader in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", os.readlink)):
        try:
            parts.append(reader(Path(path)).strip())
        except OSError:  # not Linux
            continue
    return " ".join(parts)


def start_time(pid: int) -> float:
    """Return a process's start time in seconds. Raises `psutil.NoSuchProcess`."""
    # on Linux since boot, because that does not change when the clock is set
    with contextlib.suppress(OSError):
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # proc(5): the 22nd field
        return int(ticks) / os.sysconf("SC_CLK_TCK")
    return psutil.Process(pid).create_time()


def is_alive(pid: int, started: float) -> bool:
    """Return whether the process of a pid is running and is the one that started at this time."""
    try:
        return abs(start_time(pid) - started) < 1 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def read(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's lock; None where there is none or it is not readable."""
    try:
        content = json.loads((folder / FILE).read_bytes())
        return content if {"host", "pid", "started", "token"} <= set(content) else None
    except (OSError, ValueError, TypeError):
        return None


def holder(folder: Path) -> dict[str, Any] | None:
    """Return the content of the lock of a run that a live process holds; None where no process does."""
    content = read(folder)
    if content is None:
        return None
    if content["host"] == host():
        return content if is_alive(content["pid"], content["started"]) else None
    return content if _age(folder / FILE) < LEASE else None


class Lock(Listener):
    """Lock of a run: `with Lock(folder, listener) as held`, where `held` is None if another process has it.

    It receives the run's progress, writes it into the file and passes it on to `listener`.
    """

    def __init__(self, folder: Path, listener: Listener | None = None):
        self.folder, self.listener = folder, listener or Listener()
        self._content: dict[str, Any] = {
            "host": host(),
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lock | None":
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / GUARD):
            if holder(self.folder) is not None:
                return None
            self._write()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        with FileLock(self.folder / GUARD):
            if self._is_own():
                (self.folder / FILE).unlink()

    def progress(self, step: int, steps: int, numbers: dict[str, float]) -> None:
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        self._content |= {"step": step, "steps": steps} | ({"numbers": finite} if "epoch" in numbers else {})
        self.listener.progress(step, steps, numbers)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            if not self._is_own():
                log.error("%s was taken over by another process: this one stops", self.folder)
                os._exit(1)  # because two would write to one folder
            try:
                self._write()
            except OSError as error:  # a full disk: the run itself reports it
                log.warning("no heartbeat of %s: %s", self.folder, error)

    def _is_own(self) -> bool:
        content = read(self.folder)
        return content is not None and content["token"] == self._content["token"]

    def _write(self) -> None:
        write_json(self.folder / FILE, dict(self._content), durable=False)


def _age(path: Path) -> float:
    """Return the seconds since a file was written, by the clock of its file system."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:  # a read-only folder, or the lock has gone meanwhile
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
