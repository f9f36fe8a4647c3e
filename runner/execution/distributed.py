"""One run in several processes, which `torchrun` starts: each trains on its part of every batch.

The first process tells the others, through torchrun's store, what it measured. Gradients go through torch's
DistributedDataParallel.
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

PATIENCE = timedelta(days=1)  # of processes that wait for the first to plan, to load, to evaluate
LOOK = 1.0  # seconds between two looks at whether another process failed, or was asked to end
MOMENT = timedelta(seconds=LOOK)
INTERRUPTED = "interrupted"  # the signal that asked one of the others to end


class Over(Exception):
    """The first process has nothing more to do."""


class Team:
    """The processes that torchrun started, seen from one of them."""

    def __init__(self, store: dist.Store, rank: int, size: int, local: int):
        self.store, self.rank, self.size, self.local = store, rank, size, local
        self._number = 0  # of things told
        self._asked = False  # whether the first process knows that this one is to end

    @property
    def is_leader(self) -> bool:
        """Whether this process is the command."""
        return self.rank == 0

    # -- what is said -------------------------------------------------------------------------------------------

    def broadcast(self, what: Any) -> None:
        """Says something to all others, who `receive` it. Does not wait."""
        self.store.set(f"told {self._number}", pickle.dumps(what))
        self._number += 1

    def receive(self) -> Any:
        """What the first process says next; waits for it. Raises `Over` where it has ended."""
        key = f"told {self._number}"
        while not self._has(key):
            continue
        self._number += 1
        if (what := pickle.loads(self.store.get(key))) is None:
            raise Over
        return what

    def _has(self, key: str) -> bool:
        """Return whether a word is there, after a moment: signals are heard between two of them."""
        try:
            self.store.wait([key], MOMENT)
        except dist.DistStoreError:
            return False
        return True

    def dismiss(self) -> None:
        """Ends the others, where they wait."""
        self.store.set("over", b"")
        self.broadcast(None)

    def ask_to_stop(self) -> None:
        """Have the first process save the run and end it, because a signal asked this one to end."""
        if not self._asked:
            self.store.set(INTERRUPTED, str(interruption.signal_number()))
        self._asked = True

    @property
    def over(self) -> bool:
        """Whether the first process has ended."""
        return self.store.check(["over"])

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        dist.all_reduce(value)
        return value

    # -- a run --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """Inside, tensors on such devices can be summed."""
        if device.type == "cuda":
            torch.cuda.set_device(self.local)
        # A kernel of one channel lies in memory as its gradient does, whatever their strides are called.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = dist.PrefixStore(f"run {self._number}", self.store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def join(self, run: TrainState) -> "DistributedProgram":
        """Makes a run, as it begins or goes on, this process's part of one that all train."""
        run.team = self
        if not self.is_leader:
            run.meter.clear()  # a checkpoint's is the first one's, or they would be added up
        self._tell_apart(run)
        return DistributedProgram(self, run)

    def _tell_apart(self, run: TrainState) -> None:
        """What each process has of its own: noise, and batch norm."""
        stream = f"noise of process {self.rank} after step {run.progress.step}"
        if not self.is_leader:  # each draws noise of its own for its own images
            run.noise.manual_seed(generator(run.config["seed"], stream).initial_seed())
            torch.manual_seed(generator(run.config["seed"], f"global {stream}").initial_seed())
            return
        each = run.batch_size // self.size
        log.info("%d processes train together, each on %d images of every batch of %d", self.size, each, run.batch_size)
        if any(isinstance(module, _BatchNorm) for module in run.model.modules()):
            log.warning("batch norm: each process normalises its own %d images, not the whole batch", each)
        if noisy(run.model):
            log.info("dropout and other noise: each process draws its own")


class DistributedProgram(Program):
    """A team's: this process's part of the batch, gradients of the whole."""

    def __init__(self, team: Team, run: TrainState):
        self.team, self.network = team, run.forward
        self._trained: list[bool] | None = None  # which parameters DistributedDataParallel knows to train

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        (run,), (batch,) = runs, batches
        run.optimizer.zero_grad()
        self._wrap(run)
        own = list(batch.split(self.team.size))[self.team.rank]
        parts = list(replace(own, first=True).split(run.accumulate))
        total = torch.zeros((), device=run.device)
        for number, part in enumerate(parts, 1):
            wait = contextlib.nullcontext() if number == len(parts) else run.forward.no_sync()
            with wait:
                loss = run.loss(part)
                run.backward(loss * self.team.size)  # of which torch takes the mean over the processes
            total += loss.detach()
        return [self.team.total(total)]

    def can_stop(self, runs: list[TrainState]) -> bool:
        """Stop the first process where the measurements of all were added up; the others go on as long as it does, and
        tell it where a signal asked them to end."""
        if self.team.is_leader:
            return all(run.meter.since == run.progress.step for run in runs)
        self.team.ask_to_stop()
        return False

    def _wrap(self, run: TrainState) -> None:
        """Again where stages were thawed or frozen."""
        trained = [p.requires_grad for p in run.model.parameters()]
        if trained != self._trained:
            run.forward = None  # takes its hooks off the parameters
            devices = [run.device] if run.device.type == "cuda" else None
            run.forward = DistributedDataParallel(self.network, device_ids=devices)
            self._trained = trained


@functools.cache
def team() -> Team | None:
    """The processes that torchrun started; None where it started this one alone, or did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return None
    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    return Team(dist.PrefixStore("runner", store), rank, size, int(os.environ["LOCAL_RANK"]))
