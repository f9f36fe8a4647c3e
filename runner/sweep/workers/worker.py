"""Worker process: executes runs of a sweep one after the other.

The fork server imports this module once (`runner.sweep.workers.forkserver`), so that a worker starts in milliseconds.
"""

import gc
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

from hydra.core.utils import setup_globals
from hydra.types import HydraContext

import runner.task.evaluate  # noqa: F401
from runner.core import interruption
from runner.core.listener import Listener
from runner.core.startup import malloc
from runner.store.lock import is_alive
from runner.sweep.run.work import Work, perform
from runner.task.resources import Resources

gc.freeze()  # loaded modules stay: workers need not collect them

LOOK = 1.0  # seconds between two checks that the sweep's process is alive


@dataclass(frozen=True)
class WorkerSetup:
    """Setup of a worker: Hydra's context, and environment and process of the sweep."""

    context: HydraContext
    environment: dict[str, str]  # of the sweep's process: the fork server's may be outdated
    path: list[str]  # sys.path
    parent: tuple[int, float]  # pid and start time of the sweep's process


_setup: WorkerSetup
_resources: Resources  # shared by this worker's runs


def begin(setup: WorkerSetup) -> None:
    """Set this process up as a worker."""
    global _setup, _resources
    os.environ.clear()
    os.environ.update(setup.environment)
    sys.path[:] = setup.path
    setup_globals()
    interruption.begin_worker()
    malloc.keep()
    _setup, _resources = setup, Resources()
    threading.Thread(target=_watch_parent, args=setup.parent, daemon=True).start()


def execute(work: Work) -> bool:
    """Execute a run with this worker's resources, as `perform` does. Ends the process after a signal."""
    with interruption.working():
        return perform(work, _resources, _setup.context, Listener())


def _watch_parent(pid: int, started: float) -> None:
    """End this process, with a checkpoint, once the sweep's process has died: a killed process sends no signal."""
    while is_alive(pid, started):
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(interruption.PATIENCE)
    os._exit(1)
