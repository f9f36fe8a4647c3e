"""The server that worker processes are forked from. Light, so that it can be started before torch is loaded here."""

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path

from runner import interruption

SINGLE = {"OMP_NUM_THREADS": "1"}  # of a process that does runs: torch sets each one's own number of threads


def prepare(targets: Iterable[str] = (), fork: bool = False) -> None:
    """Starts the server, if it is not there: it loads, while the sweep is planned, what runs and a report need, and the
    modules of the runner's own `targets`, which each worker would load for itself.

    With `fork` it is a fork of this process, which has torch already, where nothing else is going on. It must not have
    been used: OpenMP's threads and CUDA do not live on in a fork, and the workers would have its settings.
    """
    modules = [target.rpartition(".")[0] for target in targets if target.startswith("runner.")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runner.sweep.warm", "runner.report.ready", *modules])
    resource_tracker.ensure_running()
    spawn = util.spawnv_passfds
    if fork and sys.platform == "linux" and "torch" in sys.modules and threading.active_count() == 1:
        util.spawnv_passfds = _fork
    try:
        with environment(SINGLE):
            forkserver.ensure_running()
    finally:
        util.spawnv_passfds = spawn


def _fork(path: bytes, words: Sequence[str], files: Sequence[int]) -> int:
    """What `util.spawnv_passfds` does, without a new Python: the last word is the program."""
    for stream in filter(None, (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
            stream.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's idle threads, which it ends and begins itself
        process = os.fork()
    if process:
        return process
    try:
        # Files of the other process are none of this one's. Their numbers stay taken: an object that is left of one
        # will close its number some day, whatever that stands for then.
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if number > 2 and number not in (*files, nothing):
                os.dup2(nothing, number, inheritable=False)
        # As in a new process: others may have put streams of their own into these places.
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        for logger in logging.root, *logging.root.manager.loggerDict.values():
            getattr(logger, "handlers", []).clear()
        interruption.reset()
        sys.modules["torch"].set_num_threads(1)
        forkserver.ensure_running.__self__.__init__()  # its lock is held in this very moment
        exec(words[-1], {})
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(1)


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Inside, the environment has these too; what the user set stays."""
    added = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]
