"""Runs in worker processes: warm, and each alone in its process, so that a crash ends one run and nothing else."""

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
from runner.store.lock import began
from runner.sweep.run.executor import Outcome, Executor
from runner.sweep.run.work import Work
from runner.sweep.workers.forkserver import prepare, stop

MEMORY = 1.5e9  # bytes that a worker may need, with which `auto` counts
LOOK = CONSTS.sleep_unit = 0.02  # seconds after which a pool looks how its worker is; pebble's own are 0.1
CONTEXT = 600.0  # mebibytes of a GPU that each process takes for CUDA itself


def room() -> int:
    """Workers that the free memory has room for."""
    return max(1, int(psutil.virtual_memory().available / MEMORY))


def packed(total: float, taken: float, most: int) -> int:
    """How many runs share a GPU of `total` mebibytes, of which one takes so many; at most `most`."""
    return max(1, min(most, int(0.9 * total / (taken + CONTEXT))))


class Processes(Executor):
    """`devices`: what `CUDA_VISIBLE_DEVICES` is for each worker, None for all that there are; `limit`: seconds that a
    run may take; `grow`: as many workers to a GPU as its memory holds, once a run has told how much it takes."""

    ready = True

    def __init__(self, context: HydraContext, devices: list[str | None], limit: float | None, grow: bool = False):
        prepare()
        self._grow = grow
        self.capacity, self.limit = len(devices), limit
        self.shares = len(set(devices)) < len(devices)
        self._devices, self._context = devices, context
        self._pools: list[ProcessPool | None] = [None] * len(devices)
        self._running: dict[Future, tuple[Work, int]] = {}
        self._killed = _kills()

    def report(self, folder: Path) -> Path:
        """By a worker."""
        for pool in filter(None, self._pools):
            try:
                return pool.schedule(_report, args=[folder]).result()
            except (RuntimeError, BrokenProcessPool, ProcessExpired):  # it is gone
                continue
        return super().report(folder)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt) and self._running:
            self.save()
        idle = error is None and not self._running
        ends = []
        for pool in filter(None, self._pools):
            pool.close() if idle else pool.stop()
            ends.append(threading.Thread(target=pool.join))  # for each looks for its workers' ends every `LOOK`
            ends[-1].start()
        for end in ends if not idle else ():
            end.join()
        if isinstance(error, KeyboardInterrupt):
            stop()

    def save(self) -> None:
        """Have the workers save their runs and end; wait for them."""
        interruption.write_notice()
        interruption.ask_children()
        wait(list(self._running), interruption.PATIENCE)

    def submit(self, work: Work) -> None:
        busy = {slot for _, slot in self._running.values()}
        slot = next(slot for slot in range(self.capacity) if slot not in busy)
        self._running[self._schedule(work, slot)] = work, slot

    def wait(self, seconds: float) -> list[Outcome]:
        ready, _ = wait(self._running, seconds, FIRST_COMPLETED)
        ended = []
        for future in ready:
            work, slot = self._running.pop(future)
            ended.append(self._outcome(future, work, slot))
            if self._grow and ended[-1].done:
                self._widen(work)
        return ended

    def _widen(self, work: Work) -> None:
        """By the first run's memory: further workers on each GPU, as far as memory and cores reach."""
        record = read(work.job.folder)
        taken = None if record is None else record.result.get("peak_memory_mb")
        if not taken:
            return
        self._grow = False
        gpus = list(dict.fromkeys(self._devices))
        total = torch.cuda.get_device_properties(0).total_memory / 2**20
        each = packed(total, taken, cores() // len(gpus))
        self._devices += gpus * (each - 1)
        self._pools += [None] * (len(self._devices) - len(self._pools))
        self.capacity, self.shares = len(self._devices), each > 1

    def _schedule(self, work: Work, slot: int) -> Future:
        """Each worker has a pool of its own: a pool's workers share locks, which one that is killed would keep."""
        pool = self._pools[slot]
        limit = None if self.limit is None else self.limit * (1 + len(work.mates))  # they share the process's time
        try:
            if pool is not None:
                return pool.schedule(_work, args=[work], timeout=limit)
        except RuntimeError:  # its worker was killed while it waited
            pool.stop()
            pool.join()
        pool = self._pools[slot] = self._pool(slot)
        return pool.schedule(_work, args=[work], timeout=limit)

    def _pool(self, slot: int) -> ProcessPool:
        own = {} if self._devices[slot] is None else {"CUDA_VISIBLE_DEVICES": self._devices[slot]}
        me = os.getpid()
        post = self._context, dict(os.environ) | own, list(sys.path), (me, began(me))
        return ProcessPool(1, initializer=_begin, initargs=post, context=multiprocessing.get_context("forkserver"))

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
            kills, self._killed = _kills(), self._killed
            memory = error.exitcode == -signal.SIGKILL and kills > self._killed
            self._killed = kills
            return Outcome(work, lost=_words(error.exitcode, memory), memory=memory)


def _begin(*post: Any) -> None:
    from runner.sweep.workers import worker as warm  # loads torch: in the worker, not here

    warm.begin(warm.WorkerSetup(*post))


def _work(what: Work) -> bool:
    from runner.sweep.workers import worker as warm

    return warm.work(what)


def _report(folder: Path) -> Path:
    from runner.report import write_report

    return write_report(folder)


def _words(code: int, memory: bool) -> str:
    """How a process ended that did not end well."""
    if memory:
        return "the machine ran out of memory, and its process was killed"
    if code >= 0:
        return f"its process ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"


@functools.cache
def _events() -> Path | None:
    """Where Linux counts the processes of this control group that were killed for memory."""
    with contextlib.suppress(OSError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        for path in (Path("/sys/fs/cgroup") / group / "memory.events", Path("/sys/fs/cgroup/memory.events")):
            if path.exists():
                return path
    return None


def _kills() -> int:
    path = _events()
    if path is None:
        return 0
    counts = dict(line.split() for line in path.read_text().splitlines())
    return int(counts.get("oom_kill", 0))
