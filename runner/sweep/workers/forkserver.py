"""The server process that workers are forked from. Light, so that it can be started before torch is loaded here."""

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver

import psutil

SINGLE = {"OMP_NUM_THREADS": "1"}  # of a process that does runs: torch sets each one's own number of threads


def prepare(targets: Iterable[str] = ()) -> None:
    """Start the server, if it is not running: it imports, while the sweep is planned, what runs and a report need.

    targets: `_target_`s of options; the modules of the runner's own are imported too, so that no worker has to.
    """
    modules = [target.rpartition(".")[0] for target in targets if target.startswith("runner.")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runner.sweep.workers.worker", "runner.report.preload", *modules])
    with environment(SINGLE):
        forkserver.ensure_running()


def stop() -> None:
    """End the server. A worker that it was asked for while it still loaded would otherwise begin after this process has
    gone, and fail with a traceback."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("multiprocessing.forkserver" in word for word in child.cmdline()):
                child.kill()


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
