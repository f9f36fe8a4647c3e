"""Fork server that workers are forked from. Loads no torch, so that it can start before torch is imported here."""

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver

import psutil

SINGLE = {"OMP_NUM_THREADS": "1"}  # in workers: torch sets the number of threads of each run


def prepare(targets: Iterable[str] = ()) -> None:
    """Start the server, if it is not running. While the sweep is planned it imports what runs and a report need.

    targets: `_target_`s of options. Modules of this package are imported in the server, so that no worker has to.
    """
    modules = [target.rpartition(".")[0] for target in targets if target.startswith("runner.")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runner.sweep.workers.worker", "runner.report.preload", *modules])
    with environment(SINGLE):
        forkserver.ensure_running()


def stop() -> None:
    """Kill the server.

    Otherwise a worker that was requested while the server was loading would start after this process has ended, and
    fail with a traceback.
    """
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("multiprocessing.forkserver" in word for word in child.cmdline()):
                child.kill()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Add environment variables inside the context, except those that the user has set."""
    added = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]
