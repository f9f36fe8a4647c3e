"""One run in several processes, which `torchrun` starts: each trains on its part of every batch.

The first process is the command: it plans, holds the run's lock, writes, evaluates and prints. It tells the others,
through torchrun's store, which run to train and what it measured; they follow and write nothing. Gradients go through
torch's DistributedDataParallel.
"""

import contextlib
import functools
import logging
import os
import pickle
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from runner.build.builder import Builder
from runner.core import interruption
from runner.core.errors import ConfigError
from runner.core.seeds import generator
from runner.core.targets import locate
from runner.model.noise import noisy
from runner.optimizer.base import FullBatch
from runner.store.files import write_json
from runner.store.ledger import read
from runner.task.base import RESULT, Job, failure
from runner.train.batch import Batch
from runner.train.loop import Program
from runner.train.state import Run

if TYPE_CHECKING:
    from runner.sweep.plan.planner import Plan

log = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)  # of processes that wait for the first to plan, to load, to evaluate
LOOK = 1.0  # seconds between two looks at whether another process failed, or was asked to end
MOMENT = timedelta(seconds=LOOK)
INTERRUPTED = "interrupted"  # the signal that asked one of the others to end
GRACE = 30.0  # seconds that a process which failed leaves the first to write it down


class Over(Exception):
    """The first process has nothing more to do."""


class Team:
    """The processes that torchrun started, seen from one of them."""

    def __init__(self, store: dist.Store, rank: int, size: int, local: int):
        self.store, self.rank, self.size, self.local = store, rank, size, local
        self._number = 0  # of things told
        self._asked = False  # whether the first process knows that this one is to end

    @property
    def leads(self) -> bool:
        """Whether this process is the command."""
        return self.rank == 0

    # -- what is said -------------------------------------------------------------------------------------------

    def tell(self, what: Any) -> None:
        """Says something to all others, who `hear` it. Does not wait."""
        self.store.set(f"told {self._number}", pickle.dumps(what))
        self._number += 1

    def hear(self) -> Any:
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
        self.tell(None)

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

    @contextlib.contextmanager
    def lead(self, job: Job, device: torch.device) -> Iterator[None]:
        """The first process's part of a run: the others train it too. Where one of them fails, so does the run."""
        self.tell(job)
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(job, ended), daemon=True).start()
        try:
            with self.together(device):
                try:
                    yield
                except interruption.Interrupted:
                    self.dismiss()  # before their gradients find nobody any more
                    raise
        finally:
            ended.set()

    def _watch(self, job: Job, ended: threading.Event) -> None:
        """A process that waits for another's gradients cannot be woken: where they will never come, it is ended."""
        while not ended.wait(LOOK):
            if self.store.check([INTERRUPTED]):
                interruption.request(int(self.store.get(INTERRUPTED)))
            if self.store.check(["failed"]):
                found = pickle.loads(self.store.get("failed"))
                log.error("the run ended early: %s", found["reason"])
                record = read(job.folder)
                write_json(job.folder / RESULT, ({} if record is None else record.result) | found)
                os._exit(1)

    def follow(self, builder: Builder) -> None:
        """The part of every other process: to train what the first one says, until it has ended."""
        try:
            while True:
                job = self.hear()
                task = builder.task(job.config)
                device = task.device(job.config)
                with self.together(device):
                    task.follow(job, builder, device)
        except Over:
            return
        except Exception as error:
            if self.over:  # it was the first that ended, in the middle of the run
                return
            found = failure(error)
            self.store.set("failed", pickle.dumps(found | {"reason": f"process {self.rank}: {found['reason']}"}))
            time.sleep(GRACE)
            raise

    def join(self, run: Run) -> "Shared":
        """Makes a run, as it begins or goes on, this process's part of one that all train."""
        run.team = self
        if not self.leads:
            run.meter.clear()  # a checkpoint's is the first one's, or they would be added up
        self._tell_apart(run)
        return Shared(self, run)

    def _tell_apart(self, run: Run) -> None:
        """What each process has of its own: noise, and batch norm."""
        stream = f"noise of process {self.rank} after step {run.progress.step}"
        if not self.leads:  # each draws noise of its own for its own images
            run.noise.manual_seed(generator(run.config["seed"], stream).initial_seed())
            torch.manual_seed(generator(run.config["seed"], f"global {stream}").initial_seed())
            return
        each = run.batch_size // self.size
        log.info("%d processes train together, each on %d images of every batch of %d", self.size, each, run.batch_size)
        if any(isinstance(module, _BatchNorm) for module in run.model.modules()):
            log.warning("batch norm: each process normalises its own %d images, not the whole batch", each)
        if noisy(run.model):
            log.info("dropout and other noise: each process draws its own")


class Shared(Program):
    """A team's: this process's part of the batch, gradients of the whole."""

    def __init__(self, team: Team, run: Run):
        self.team, self.network = team, run.forward
        self._trained: list[bool] | None = None  # which parameters DistributedDataParallel knows to train

    def gradients(self, runs: list[Run], batches: list[Batch]) -> list[Tensor]:
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

    def can_stop(self, runs: list[Run]) -> bool:
        """Stop the first process where the measurements of all were added up; the others go on as long as it does, and
        tell it where a signal asked them to end."""
        if self.team.leads:
            return all(run.meter.since == run.progress.step for run in runs)
        self.team.ask_to_stop()
        return False

    def _wrap(self, run: Run) -> None:
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


def leading(job: Job, device: torch.device) -> contextlib.AbstractContextManager:
    """Around a run of the first of several processes; of a lone one, nothing."""
    first = team()
    return contextlib.nullcontext() if first is None else first.lead(job, device)


def refuse_sweep(multirun: bool) -> None:
    """Raises `ConfigError` for a sweep that torchrun started."""
    if multirun:
        raise ConfigError("torchrun trains one run on several devices: leave -m out, or start the sweep without it")


def check(plan: "Plan") -> None:
    """Raises `ConfigError` for what several processes, where there are such, cannot do together."""
    if (together := team()) is None:
        return
    config, builder, size = plan.entries[0].job.config, plan.builder, together.size
    lines = []
    if plan.workers:
        lines.append("hydra/launcher: torchrun's own processes do the run: leave hydra/launcher and its keys out")
    if not builder.task(config).together:
        lines.append("task: several processes can do task=train alone; start this without torchrun")
    optimizer = locate("optimizer", config["optimizer"]["_target_"], config["trust"])
    if config["optimizer"]["full_batch"] or isinstance(optimizer, type) and issubclass(optimizer, FullBatch):
        lines.append("optimizer: one that compares losses of a step cannot be shared out; start it without torchrun")
    if config["cuda_graph"] is True:
        lines.append("cuda_graph=true: steps of several processes are not replayed; use cuda_graph=auto")
    if builder.ensemble(config).count > 1:
        lines.append("ensemble: its members are runs of their own; start it without torchrun")
    if builder.transfer(config).cache is True:
        lines.append("transfer.cache=true: several processes keep no features; use transfer.cache=auto")
    if config["batch_size"] < size * config["accumulate"]:
        shares = f"{size} processes" + (f" times accumulate={config['accumulate']}" * (config["accumulate"] > 1))
        lines.append(f"batch_size={config['batch_size']}: fewer images than {shares}")
    if plan.device.startswith("cuda"):
        here, have = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if ":" in plan.device:
            lines.append(f"device={plan.device}: each process has a GPU of its own; use device=cuda")
        elif here > have:
            lines.append(f"--nproc-per-node {here}: there are GPUs for {have}; start as many, or use device=cpu")
    if lines:
        raise ConfigError("torchrun: " + "; ".join(lines))
