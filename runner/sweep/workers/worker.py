"""A worker process: what it has loaded before its first run, and what it does with one.

The server that workers are forked from imports this once (`runner.sweep.workers.forkserver`), so that a worker is there
in a few milliseconds.
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

gc.freeze()  # all that is loaded stays, in the workers too

LOOK = 1.0  # seconds between two looks at whether the sweep is still there


@dataclass(frozen=True)
class WorkerSetup:
    """A worker's place in a sweep."""

    context: HydraContext
    environment: dict[str, str]  # of the sweep's process; the server may be older
    path: list[str]  # where Python looks for modules
    parent: tuple[int, float]  # the sweep's process and when it began


_post: WorkerSetup
_resources: Resources  # what this worker's runs share


def begin(post: WorkerSetup) -> None:
    """Makes this process a worker."""
    global _post, _resources
    os.environ.clear()
    os.environ.update(post.environment)
    sys.path[:] = post.path
    setup_globals()
    interruption.begin_worker()
    malloc.keep()
    _post, _resources = post, Resources()
    threading.Thread(target=_follow, args=post.parent, daemon=True).start()


def work(what: Work) -> bool:
    """`perform`, with what this worker has; ends the process where a signal asked for it."""
    with interruption.working():
        return perform(what, _resources, _post.context, Listener())


def _follow(pid: int, started: float) -> None:
    """End this process where the sweep's is gone, which tells nobody when it is killed: what it trains is saved."""
    while is_alive(pid, started):
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(interruption.PATIENCE)
    os._exit(1)
