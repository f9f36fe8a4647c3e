"""The train state of a run. A step: draw, augment, mix (`next_batch`); forward, loss, penalties (`loss`); rate, clip,
optimizer, constraints, log (`step`).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.core import memory
from runner.core.seeds import generator
from runner.core.timeline import batches
from runner.data.normalize import Normalize
from runner.evaluation.metrics import EvaluationResult
from runner.model.stages import stage_parameters
from runner.optimizer.kernels import direct, lay_out, use_kernel
from runner.train.batch import Batch
from runner.train.epoch import Epochs
from runner.train.metrics import Meter
from runner.train.parts import Parts
from runner.train.precision import channels_last, precision
from runner.train.probes import Probe
from runner.train.progress import Progress, Row
from runner.train.protocols import Collective, Features, Gradients
from runner.train.saved import Saved
from runner.train.selection import select_weights
from runner.train.slot import Slot
from runner.train.stream import Stream


class TrainState(Stream, Epochs, Saved):
    """Train state of one run.

    Callbacks: `on_log(step, scalars)` every `log.every` steps, `on_epoch(row)` after each validation, `on_pause(run)`
    wherever a checkpoint may be saved.
    """

    def __init__(self, config: dict[str, Any], parts: Parts, device: torch.device, noise: torch.Generator):
        self.config, self.parts, self.device, self.noise = config, parts, device, noise
        self.model, self.optimizer, self.schedule = parts.model, parts.optimizer, parts.schedule
        splits = parts.splits
        self.train_split, self.val_split, self.num_classes = splits.train, splits.val, len(splits.classes)
        self.batch_size, self.accumulate = batches(config, len(splits.train))
        self.steps, self.steps_per_epoch = parts.timeline.steps, parts.timeline.steps_per_epoch
        self.augmenting = generator(config["seed"], "augmentation", device)
        self.pipeline = list(parts.pipeline.values())
        self.following = [item for item in self.pipeline if item.overrides("follow")]
        stack = parts.stack.values()
        self.mixers = [item for item in stack if item.overrides("mix")]
        self.penalties = {name: item for name, item in parts.stack.items() if item.overrides("penalty")}
        self.output_penalties = {name: item for name, item in parts.stack.items() if item.overrides("output_penalty")}
        self.transfer, self.ensemble = parts.transfer, parts.ensemble
        has_own = self.ensemble.keeps_own
        self.selection = select_weights(config, self.schedule, self.val_split is not None, has_own)
        self.constraints = [item for item in stack if item.overrides("after_step")]
        self.averages = self.ensemble.overrides("after_step")
        self.transfer.thaw(self.model, 0)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.precision = precision(config, device)
        self.scaler = torch.amp.GradScaler(device.type) if self.precision == torch.float16 else None
        if self.scaler is None:  # a scaler checks for infinite gradients before the step, not in the kernel
            use_kernel(self.optimizer)
        self.direct = direct(self.optimizer) if self.scaler is None else None
        self.memory_format = torch.channels_last if channels_last(config, self.model) else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.normalize = Normalize(splits, device, self.memory_format)
        self.forward = self.model
        trained = {id(p) for p in self.trained}
        stages = [(name, [p for _, p in named if id(p) in trained]) for name, named in stage_parameters(self.model)]
        self.probe = Probe(stages, config["probe"]["every"])
        self.curvature_every = config["probe"]["curvature_every"]
        self.every, self.clip = config["log"]["every"], config["clip_grad_norm"]
        self.progress = Progress()
        self.on_log: Callable[[int, dict[str, float]], None] = _ignore
        self.on_epoch: Callable[[Row], None] = _ignore
        self.on_pause: Callable[[TrainState], None] = _ignore
        self.meter = Meter()
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None
        self._rows: Iterator[Tensor] | None = None
        self.features: Features | None = None
        self.team: Collective | None = None  # processes that train this run together
        self.replays: Gradients | None = None  # of a single run, with a CUDA graph
        self.compiled: bool | None = None  # result of the compile trial; None before it
        self.compile_reason = "as when the run began"  # default reason
        self.chosen: dict[str, str] = {}  # for result.json: execution choices and reasons, by key
        self.dropped = False  # after an error, or stopped by a pruner
        self.fused: int | None = None  # number of runs that share its program, at the start
        self.slot: Slot | None = None  # its slot in that program
        self._sharing = 1  # runs that this process trains side by side
        self._started = time.perf_counter()
        self.ensemble.begin(self)
        memory.watch(self, self.optimizer, *self.model.parameters())

    def use(self, features: Features) -> None:
        """Train on cached features, the inputs of the first stage that trains, in place of images."""
        self.features, self.forward = features, features.rest(self.model)

    def train_mode(self) -> None:
        """Set the training flags of the model's modules; frozen stages stay in eval mode if so configured."""
        self.transfer.train_mode(self.model, self.progress.step // self.steps_per_epoch)

    # -- a step, in the order of the data flow ------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Return whether no step is left."""
        return self.dropped or self.progress.stopped or self.progress.step >= self.steps

    def loss(self, batch: Batch) -> Tensor:
        """Return the data loss of a (micro-)batch plus the penalties, times the batch's share."""
        with self.autocast():
            logits = self.forward(batch.images)
            loss = cross_entropy(logits, batch.targets)
        if self.penalties or self.output_penalties:
            loss = loss + self.penalty(logits, batch)
        if not batch.repeated:
            self.meter.count(logits.detach().argmax(1), batch.labels)
        return loss if batch.share == 1.0 else loss * batch.share

    def penalty(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the sum of the penalties; `logits` [B, K] of the (micro-)batch."""
        terms = {name: item.penalty(self.model) for name, item in self.penalties.items()}
        terms |= {name: item.output_penalty(logits.float()) for name, item in self.output_penalties.items()}
        for name, term in terms.items():
            self.meter.penalize(name, term.detach() * batch.share, batch.first)
        return sum(terms.values())

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, loss: Tensor, objective: Callable[[], Tensor]) -> None:
        """Finish a step after `backward`. Optimizers with several evaluations a step call the objective."""
        self.before_update(loss)
        self.update(objective)
        self.after_update()
        self.log_and_validate()
        self.pause()

    def lay_out(self) -> None:
        """Give the optimizer's state the memory layout of the weights, after these have moved."""
        lay_out(self.optimizer)
        if self.direct is not None:
            self.direct.forget()

    def before_update(self, loss: Tensor) -> None:
        """Record the loss, set the learning rates and probe the gradients, before the optimizer's step."""
        self.meter.losses.append(loss)
        self._set_rates()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.probe.due(self.progress.step):
            self.probe.before()  # before clipping
        if self.scaler is not None:
            self.clip_gradients()

    def update(self, objective: Callable[[], Tensor]) -> None:
        """Take the optimizer's step."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.direct is not None:
            objective()
            self.direct.step()
        else:
            self.optimizer.step(objective)

    def after_update(self) -> None:
        """Apply constraints and weight averages, after the optimizer's step."""
        if self.probe.due(self.progress.step):
            self.probe.after(self.progress.step)
        for item in self.constraints:
            item.after_step(self.model)
        if self.averages:
            self.ensemble.after_step(self)
        self.progress.step += 1

    @property
    def epoch_ended(self) -> bool:
        """Return whether the last step ended an epoch."""
        return self.progress.step % self.steps_per_epoch == 0

    @property
    def validates(self) -> bool:
        """Return whether `log_and_validate` will evaluate the validation split."""
        return self.epoch_ended and self.val_split is not None

    def log_and_validate(self, measured: EvaluationResult | None = None) -> None:
        """Write a log if due, and end the epoch if due. `measured`: the validation result, if known already."""
        if self.epoch_ended or self.progress.step - self.meter.since == self.every:
            self._log()
            if self.epoch_ended:
                self._end_epoch(measured)

    def pause(self) -> None:
        """Call `on_pause` if this step was logged; by then all runs trained together have logged theirs."""
        if self.meter.since == self.progress.step:
            self.on_pause(self)

    # -- parts of a step ----------------------------------------------------------------------------------------

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the autocast context of the forward pass."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def _set_rates(self) -> None:
        multiplier = self.schedule(self.progress.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * multiplier

    def clip_gradients(self) -> None:
        """Clip the gradients to the configured norm."""
        if self.clip is not None:
            self.meter.norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip)

    def _log(self) -> None:
        scalars = self.meter.read(self.progress, self.team)
        scalars |= {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        self.on_log(self.progress.step, scalars | self.probe.read())

    def seconds(self) -> float:
        """Return the seconds of training, earlier processes included. Time shared by n runs counts 1/n."""
        return self.progress.seconds + (time.perf_counter() - self._started) / self._sharing

    def share_time(self, runs: int) -> None:
        """Set the number of runs that share the training time from now on."""
        self.progress.seconds, self._started, self._sharing = self.seconds(), time.perf_counter(), runs

    def restart_clock(self) -> None:
        """Discard the time since the clock was last read: the run was waiting."""
        self._started = time.perf_counter()

    def release(self) -> None:
        """Drop all references back to this run."""
        # because of reference cycles it would be freed only by the garbage collector
        self.on_log, self.on_epoch, self.on_pause = _ignore, _ignore, _ignore
        self.features = self.replays = self._batches = self._rows = None
        self.forward = self.model


def _ignore(*_: Any) -> None:
    """Do nothing."""
