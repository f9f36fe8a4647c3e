"""Data-parallel training of one run in several processes, started by `torchrun`.

Each process trains on its part of every batch; DistributedDataParallel averages the gradients. The first process, the
leader, sends jobs and validation results to the others through torchrun's store.
"""

import contextlib
import functools
import logging
import os
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from runner.core import interruption
from runner.core.seeds import generator
from runner.model.noise import noisy
from runner.train.batch import Batch
from runner.train.program import Program
from runner.train.state import TrainState

log = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)  # timeout of processes that wait while the leader plans, loads or evaluates
POLL = 1.0  # seconds between two checks for failed or interrupted processes
POLL_DELTA = timedelta(seconds=POLL)
INTERRUPTED = "interrupted"  # store key: number of the signal that another process received


class LeaderEnded(Exception):
    """The first process has ended."""


class Team:
    """Process group started by torchrun; an instance is one process's end of it."""

    def __init__(self, store: dist.Store, rank: int, size: int, local: int):
        self.store, self.rank, self.size, self.local = store, rank, size, local
        self._number = 0  # objects broadcast so far
        self._has_asked_to_stop = False

    @property
    def is_leader(self) -> bool:
        """Return whether this is the first process, which runs the command."""
        return self.rank == 0

    # -- messages -----------------------------------------------------------------------------------------------

    def broadcast(self, value: Any) -> None:
        """Send an object to all other processes, without waiting; they `receive` it."""
        self.store.set(f"object {self._number}", pickle.dumps(value))
        self._number += 1

    def receive(self) -> Any:
        """Wait for the leader's next object and return it. Raises `LeaderEnded`."""
        key = f"object {self._number}"
        while not self._has(key):
            continue
        self._number += 1
        if (value := pickle.loads(self.store.get(key))) is None:
            raise LeaderEnded
        return value

    def _has(self, key: str) -> bool:
        """Return whether the store has a key, after waiting for a short time."""
        try:  # short, because Python handles signals only between two waits
            self.store.wait([key], POLL_DELTA)
        except dist.DistStoreError:
            return False
        return True

    def dismiss(self) -> None:
        """End the other processes at their next `receive`."""
        self.store.set("ended", b"")
        self.broadcast(None)

    def ask_to_stop(self) -> None:
        """Pass this process's signal on to the leader, which then saves and ends the run."""
        if not self._has_asked_to_stop:
            self.store.set(INTERRUPTED, str(interruption.signal_number()))
        self._has_asked_to_stop = True

    @property
    def has_ended(self) -> bool:
        """Return whether the leader has ended."""
        return self.store.check(["ended"])

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes in place and return it."""
        dist.all_reduce(value)
        return value

    # -- a run --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def process_group(self, device: torch.device) -> Iterator[None]:
        """Initialize torch's process group for a device; destroy it on exit."""
        if device.type == "cuda":
            torch.cuda.set_device(self.local)
        # harmless: for a kernel of one channel the strides differ only nominally
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = dist.PrefixStore(f"run {self._number}", self.store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def join(self, run: TrainState) -> "DistributedProgram":
        """Make a new or resumed run this process's replica, and return its program."""
        run.team = self
        if not self.is_leader:
            run.meter.clear()  # because a resumed meter would be counted once per process
        self._seed_noise(run)
        return DistributedProgram(self, run)

    def _seed_noise(self, run: TrainState) -> None:
        """Give each process its own noise, and log what differs between the processes."""
        stream = f"noise of process {self.rank} after step {run.progress.step}"
        if not self.is_leader:  # the leader keeps the run's own seed
            run.noise.manual_seed(generator(run.config["seed"], stream).initial_seed())
            torch.manual_seed(generator(run.config["seed"], f"global {stream}").initial_seed())
            return
        part = run.batch_size // self.size
        log.info("%d processes train together, each on %d images of every batch of %d", self.size, part, run.batch_size)
        if any(isinstance(module, _BatchNorm) for module in run.model.modules()):
            log.warning("batch norm: each process normalizes its own %d images, not the whole batch", part)
        if noisy(run.model):
            log.info("dropout and other noise: each process draws its own")


class DistributedProgram(Program):
    """Program of one replica: computes its part of the batch; DistributedDataParallel averages the gradients."""

    def __init__(self, team: Team, run: TrainState):
        self.team, self.network = team, run.forward
        self._trained: list[bool] | None = None  # `requires_grad` flags at the last wrapping

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        (run,), (batch,) = runs, batches
        run.optimizer.zero_grad()
        self._wrap(run)
        own = list(batch.split(self.team.size))[self.team.rank]
        parts = list(replace(own, first=True).split(run.accumulate))
        total = torch.zeros((), device=run.device)
        for number, part in enumerate(parts, 1):
            sync = contextlib.nullcontext() if number == len(parts) else run.forward.no_sync()
            with sync:
                loss = run.loss(part)
                run.backward(loss * self.team.size)  # because torch averages over the processes
            total += loss.detach()
        return [self.team.total(total)]

    def can_stop(self, runs: list[TrainState]) -> bool:
        """Return True in the leader once all meters are reduced; the others ask the leader to stop."""
        if self.team.is_leader:
            return all(run.meter.since == run.progress.step for run in runs)
        self.team.ask_to_stop()
        return False

    def _wrap(self, run: TrainState) -> None:
        """Wrap the network in DistributedDataParallel, again whenever `requires_grad` flags have changed."""
        trained = [p.requires_grad for p in run.model.parameters()]
        if trained != self._trained:
            run.forward = None  # frees the old wrapper, and with it its hooks
            devices = [run.device] if run.device.type == "cuda" else None
            run.forward = DistributedDataParallel(self.network, device_ids=devices)
            self._trained = trained


@functools.cache
def team() -> Team | None:
    """Return the process group of torchrun; None for a single process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    return Team(dist.PrefixStore("runner", store), rank, size, int(os.environ["LOCAL_RANK"]))
