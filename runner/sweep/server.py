"""The server that worker processes are forked from. Light, so that it can be started before torch is loaded here."""

import contextlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver

# glibc gives large blocks back to the system at every step; with these it keeps them (docs/benchmarks.md). They count
# only where they are set before a process starts.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


def prepare(targets: Iterable[str] = ()) -> None:
    """Starts the server, if it is not there: it loads torch while the sweep is planned, what a report needs, and the
    modules of the runner's own `targets`, which each worker would load for itself."""
    modules = [target.rpartition(".")[0] for target in targets if target.startswith("runner.")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runner.sweep.warm", "runner.report.ready", *modules])
    with environment(ALLOCATOR | {"OMP_NUM_THREADS": "1"}):  # torch sets each run's own number of threads
        forkserver.ensure_running()


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
