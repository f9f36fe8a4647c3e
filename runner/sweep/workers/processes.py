"""Executor of worker processes. They are reused; a crash ends only the run of its process."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import torch
from hydra.types import HydraContext
from pebble import CONSTS, ProcessExpired, ProcessPool

from runner.core import interruption
from runner.core.devices import cores
from runner.store.ledger import read
from runner.store.lock import start_time
from runner.sweep.run.executor import Executor, Outcome
from runner.sweep.run.work import Work
from runner.sweep.workers.forkserver import prepare, stop

MEMORY = 1.5e9  # bytes that `auto` reserves per worker
LOOK = CONSTS.sleep_unit = 0.02  # seconds between two polls of a pool's worker; pebble's default is 0.1
CONTEXT = 600.0  # mebibytes of GPU memory for the CUDA context of a process


def room() -> int:
    """Return how many workers fit into the free memory."""
    return max(1, int(psutil.virtual_memory().available / MEMORY))


def packed(total: float, taken: float, most: int) -> int:
    """Return how many runs of `taken` mebibytes share a GPU of `total` mebibytes; at most `most`."""
    return max(1, min(most, int(0.9 * total / (taken + CONTEXT))))


class Processes(Executor):
    """Executor of one worker process per device slot.

    devices: `CUDA_VISIBLE_DEVICES` of each worker; None: all GPUs. limit: seconds per run. grow: after the first run,
    add as many workers per GPU as its memory holds.
    """

    ready = True

    def __init__(self, context: HydraContext, devices: list[str | None], limit: float | None, grow: bool = False):
        prepare()
        self._grow = grow
        self.capacity, self.limit = len(devices), limit
        self.shares = len(set(devices)) < len(devices)
        self._devices, self._context = devices, context
        self._pools: list[ProcessPool | None] = [None] * len(devices)
        self._running: dict[Future, tuple[Work, int]] = {}
        self._kills = _count_kills()

    def report(self, folder: Path) -> Path:
        """Write the report in a worker, or here if no worker is left."""
        for pool in filter(None, self._pools):
            try:
                return pool.schedule(_report, args=[folder]).result()
            except (RuntimeError, BrokenProcessPool, ProcessExpired):  # the worker died
                continue
        return super().report(folder)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt) and self._running:
            self.save()
        is_idle = error is None and not self._running
        threads = []
        for pool in filter(None, self._pools):
            pool.close() if is_idle else pool.stop()
            threads.append(threading.Thread(target=pool.join))  # in threads: each join polls every `LOOK`
            threads[-1].start()
        for thread in threads if not is_idle else ():
            thread.join()
        if isinstance(error, KeyboardInterrupt):
            stop()

    def save(self) -> None:
        """Tell the workers to save checkpoints and end; wait for them."""
        interruption.write_notice()
        interruption.ask_children()
        wait(list(self._running), interruption.PATIENCE)

    def submit(self, work: Work) -> None:
        busy = {slot for _, slot in self._running.values()}
        slot = next(slot for slot in range(self.capacity) if slot not in busy)
        self._running[self._schedule(work, slot)] = work, slot

    def wait(self, seconds: float) -> list[Outcome]:
        ready, _ = wait(self._running, seconds, FIRST_COMPLETED)
        outcomes = []
        for future in ready:
            work, slot = self._running.pop(future)
            outcomes.append(self._outcome(future, work, slot))
            if self._grow and outcomes[-1].done:
                self._widen(work)
        return outcomes

    def _widen(self, work: Work) -> None:
        """Add workers on each GPU by the peak memory of the first run, as far as memory and cores reach."""
        record = read(work.job.folder)
        peak = None if record is None else record.result.get("peak_memory_mb")
        if not peak:
            return
        self._grow = False
        gpus = list(dict.fromkeys(self._devices))
        total = torch.cuda.get_device_properties(0).total_memory / 2**20
        per_gpu = packed(total, peak, cores() // len(gpus))
        self._devices += gpus * (per_gpu - 1)
        self._pools += [None] * (len(self._devices) - len(self._pools))
        self.capacity, self.shares = len(self._devices), per_gpu > 1

    def _schedule(self, work: Work, slot: int) -> Future:
        """Schedule a run on a worker.

        Each worker has its own pool, because the workers of a pool share locks and a killed worker would keep them.
        """
        pool = self._pools[slot]
        limit = None if self.limit is None else self.limit * (1 + len(work.mates))  # mates share the time
        try:
            if pool is not None:
                return pool.schedule(_execute, args=[work], timeout=limit)
        except RuntimeError:  # its idle worker was killed
            pool.stop()
            pool.join()
        pool = self._pools[slot] = self._pool(slot)
        return pool.schedule(_execute, args=[work], timeout=limit)

    def _pool(self, slot: int) -> ProcessPool:
        visible = {} if self._devices[slot] is None else {"CUDA_VISIBLE_DEVICES": self._devices[slot]}
        pid = os.getpid()
        setup = self._context, dict(os.environ) | visible, list(sys.path), (pid, start_time(pid))
        return ProcessPool(1, initializer=_begin, initargs=setup, context=multiprocessing.get_context("forkserver"))

    def _outcome(self, future: Future, work: Work, slot: int) -> Outcome:
        try:
            return Outcome(work, done=future.result())
        except TimeoutError:
            return Outcome(work, lost=f"took longer than hydra.launcher.timeout={self.limit:g} seconds")
        except BrokenProcessPool:
            self._pools[slot] = None
            return Outcome(work, lost="its process was killed before it began")
        except ProcessExpired as error:
            if error.exitcode in interruption.EXIT_CODES:
                return Outcome(work, interrupted=True)
            kills, self._kills = _count_kills(), self._kills
            memory = error.exitcode == -signal.SIGKILL and kills > self._kills
            self._kills = kills
            return Outcome(work, lost=_describe_exit(error.exitcode, memory), memory=memory)


def _begin(*setup: Any) -> None:
    from runner.sweep.workers import worker  # loads torch: in the worker, not here

    worker.begin(worker.WorkerSetup(*setup))


def _execute(work: Work) -> bool:
    from runner.sweep.workers import worker

    return worker.execute(work)


def _report(folder: Path) -> Path:
    from runner.report import write_report

    return write_report(folder)


def _describe_exit(code: int, memory: bool) -> str:
    """Describe how a process died."""
    if memory:
        return "the machine ran out of memory, and its process was killed"
    if code >= 0:
        return f"its process ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"


@functools.cache
def _memory_events() -> Path | None:
    """Return the file where Linux counts out-of-memory kills of this control group; None if there is none."""
    with contextlib.suppress(OSError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        for path in (Path("/sys/fs/cgroup") / group / "memory.events", Path("/sys/fs/cgroup/memory.events")):
            if path.exists():
                return path
    return None


def _count_kills() -> int:
    path = _memory_events()
    if path is None:
        return 0
    counts = dict(line.split() for line in path.read_text().splitlines())
    return int(counts.get("oom_kill", 0))
