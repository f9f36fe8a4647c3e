"""One lock a run: two terminals, or two machines on a shared disk, work on one sweep without doing a run twice.

The lock is a file in the run's folder that says who does the run and how far it is. The lock of a process that is
gone is taken over: on this host by its pid and start time, on another by a heartbeat that has stopped.
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
GUARD = ".guard"  # held for the moment in which a lock changes hands
BEAT = 1.0  # seconds between two heartbeats
LEASE = 60.0  # seconds without one, after which the process of another host counts as gone


@functools.cache
def host() -> str:
    """This host: containers of one machine, which do not see each other's processes, are hosts of their own."""
    parts = [platform.node()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", os.readlink)):
        try:
            parts.append(read(Path(path)).strip())
        except OSError:  # not Linux
            continue
    return " ".join(parts)


def began(pid: int) -> float:
    """When a process began, in seconds by a clock that nobody sets: since the system did, on Linux. Raises
    `psutil.NoSuchProcess`."""
    with contextlib.suppress(OSError):
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # proc(5): the 22nd field
        return int(ticks) / os.sysconf("SC_CLK_TCK")
    return psutil.Process(pid).create_time()


def alive(pid: int, started: float) -> bool:
    """Whether the process of that pid is there and is the one that began then."""
    try:
        return abs(began(pid) - started) < 1 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def read(folder: Path) -> dict[str, Any] | None:
    """What a run's lock says; None where there is none, or none that can be read."""
    try:
        said = json.loads((folder / FILE).read_bytes())
        return said if {"host", "pid", "started", "token"} <= set(said) else None
    except (OSError, ValueError, TypeError):
        return None


def holder(folder: Path) -> dict[str, Any] | None:
    """What the lock of a run says that somebody is doing now; None where nobody is."""
    said = read(folder)
    if said is None:
        return None
    if said["host"] == host():
        return said if alive(said["pid"], said["started"]) else None
    return said if _age(folder / FILE) < LEASE else None


class Lock(Listener):
    """A run's lock: `with Lock(folder, listener) as held`, where `held` is None if another process has it.

    Its owner tells it how the run gets on; it passes that on to `listener`, and to whoever reads the file.
    """

    def __init__(self, folder: Path, listener: Listener | None = None):
        self.folder, self.listener = folder, listener or Listener()
        self._said: dict[str, Any] = {
            "host": host(),
            "pid": os.getpid(),
            "started": began(os.getpid()),
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
        self._thread = threading.Thread(target=self._beats, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        with FileLock(self.folder / GUARD):
            if self._own():
                (self.folder / FILE).unlink()

    def progress(self, step: int, steps: int, numbers: dict[str, float]) -> None:
        shown = {key: value for key, value in numbers.items() if math.isfinite(value)}
        self._said |= {"step": step, "steps": steps} | ({"numbers": shown} if "epoch" in numbers else {})
        self.listener.progress(step, steps, numbers)

    def _beats(self) -> None:
        while not self._ended.wait(BEAT):
            if not self._own():
                log.error("%s was taken over by another process: this one stops", self.folder)
                os._exit(1)  # two would write to one folder
            try:
                self._write()
            except OSError as error:  # a full disk: the run itself will say so
                log.warning("no heartbeat of %s: %s", self.folder, error)

    def _own(self) -> bool:
        said = read(self.folder)
        return said is not None and said["token"] == self._said["token"]

    def _write(self) -> None:
        write_json(self.folder / FILE, dict(self._said), durable=False)


def _age(path: Path) -> float:
    """Seconds since a file was written, by the clock of its file system."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:  # read-only, or the lock is gone by now
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
