"""A run while it trains. What a step does stands here: draw, augment, mix (`next_batch`); forward, loss, penalties
(`loss`); clip, rate, optimizer, constraints, log (`step`).
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
    """Everything that is one run's own while it trains.

    Listeners are told what happened: `on_log(step, scalars)` every `log.every` steps, `on_epoch(row)` after each
    validation, `on_pause(run)` wherever a checkpoint may be taken.
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
        kept = self.ensemble.keeps_own
        self.selection = select_weights(config, self.schedule, self.val_split is not None, kept)
        self.constraints = [item for item in stack if item.overrides("after_step")]
        self.averages = self.ensemble.overrides("after_step")
        self.transfer.thaw(self.model, 0)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.precision = precision(config, device)
        self.scaler = torch.amp.GradScaler(device.type) if self.precision == torch.float16 else None
        if self.scaler is None:  # which looks for gradients to leave out before the step, not in it
            use_kernel(self.optimizer)
        self.direct = direct(self.optimizer) if self.scaler is None else None
        self.memory_format = torch.channels_last if channels_last(config, self.model) else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.normalize = Normalize(splits, device, self.memory_format)
        self.forward = self.model
        moved = {id(p) for p in self.trained}
        stages = [(name, [p for _, p in named if id(p) in moved]) for name, named in stage_parameters(self.model)]
        self.probe = Probe(stages, config["probe"]["every"])
        self.curvature_every = config["probe"]["curvature_every"]
        self.every, self.clip = config["log"]["every"], config["clip_grad_norm"]
        self.progress = Progress()
        self.on_log: Callable[[int, dict[str, float]], None] = _unheard
        self.on_epoch: Callable[[Row], None] = _unheard
        self.on_pause: Callable[[TrainState], None] = _unheard
        self.meter = Meter()
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None
        self._rows: Iterator[Tensor] | None = None
        self.features: Features | None = None
        self.team: Collective | None = None  # processes that train this run together
        self.replays: Gradients | None = None  # what a lone run's gradients come from, where they are a CUDA graph
        self.compiled: bool | None = None  # as a trial found; None before it
        self.compile_reason = "as when the run began"  # where nothing says more
        self.chosen: dict[str, str] = {}  # for the result: by key, how its steps are done, and why
        self.left = False  # by an error, or a judge
        self.fused: int | None = None  # runs of the program that it began in, where several share one
        self.seat: Slot | None = None  # its place in that program
        self._sharing = 1  # runs that this process trains side by side
        self._started = time.perf_counter()
        self.ensemble.begin(self)
        memory.watch(self, self.optimizer, *self.model.parameters())

    def use(self, features: Features) -> None:
        """Trains on what enters the first stage that trains, kept by the cache, in place of images."""
        self.features, self.forward = features, features.rest(self.model)

    def train_mode(self) -> None:
        """The model as training has it."""
        self.transfer.train_mode(self.model, self.progress.step // self.steps_per_epoch)

    # -- a step, in the order of the data's way -----------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether there is no further step to do."""
        return self.left or self.progress.stopped or self.progress.step >= self.steps

    def loss(self, batch: Batch) -> Tensor:
        """The data loss of a (micro-)batch and the penalties, times the batch's share."""
        with self.autocast():
            logits = self.forward(batch.images)
            loss = cross_entropy(logits, batch.targets)
        if self.penalties or self.output_penalties:
            loss = loss + self.penalty(logits, batch)
        if not batch.again:
            self.meter.count(logits.detach().argmax(1), batch.labels)
        return loss if batch.share == 1.0 else loss * batch.share

    def penalty(self, logits: Tensor, batch: Batch) -> Tensor:
        """What the stack adds to the data loss; `logits` [B, K] of the (micro-)batch."""
        terms = {name: item.penalty(self.model) for name, item in self.penalties.items()}
        terms |= {name: item.output_penalty(logits.float()) for name, item in self.output_penalties.items()}
        for name, term in terms.items():
            self.meter.penalize(name, term.detach() * batch.share, batch.first)
        return sum(terms.values())

    def backward(self, loss: Tensor) -> None:
        """Adds to the gradients."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, loss: Tensor, objective: Callable[[], Tensor]) -> None:
        """The update, from gradients that stand; optimizers that look more than once a step ask the objective."""
        self.before_update(loss)
        self.update(objective)
        self.after_update()
        self.look()
        self.pause()

    def lay_out(self) -> None:
        """Has the optimizer's state lie in memory as the weights do, which were moved."""
        lay_out(self.optimizer)
        if self.direct is not None:
            self.direct.forget()

    def before_update(self, loss: Tensor) -> None:
        """The step's rates; what is measured before the optimizer moves."""
        self.meter.losses.append(loss)
        self._set_rates()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip_gradients()
        if self.probe.due(self.progress.step):
            self.probe.before()

    def update(self, objective: Callable[[], Tensor]) -> None:
        """The optimizer's step."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.direct is not None:
            objective()
            self.direct.step()
        else:
            self.optimizer.step(objective)

    def after_update(self) -> None:
        """What follows the optimizer: constraints, averages."""
        if self.probe.due(self.progress.step):
            self.probe.after(self.progress.step)
        for item in self.constraints:
            item.after_step(self.model)
        if self.averages:
            self.ensemble.after_step(self)
        self.progress.step += 1

    @property
    def epoch_ended(self) -> bool:
        """Whether the step that was done was an epoch's last."""
        return self.progress.step % self.steps_per_epoch == 0

    @property
    def validates(self) -> bool:
        """Whether `look` will ask the validation split."""
        return self.epoch_ended and self.val_split is not None

    def look(self, measured: EvaluationResult | None = None) -> None:
        """At the step that was done: logs, at an epoch's end its validation, unless that was `measured` already."""
        if self.epoch_ended or self.progress.step - self.meter.since == self.every:
            self._log()
            if self.epoch_ended:
                self._end_epoch(measured)

    def pause(self) -> None:
        """After a look, when all runs that are trained together had theirs: a checkpoint may be taken."""
        if self.meter.since == self.progress.step:
            self.on_pause(self)

    # -- parts of a step ----------------------------------------------------------------------------------------

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of the forward pass."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def _set_rates(self) -> None:
        multiplier = self.schedule(self.progress.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * multiplier

    def clip_gradients(self) -> None:
        """To the norm that the config allows."""
        if self.clip is not None:
            self.meter.norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip)

    def _log(self) -> None:
        scalars = self.meter.read(self.progress, self.team)
        scalars |= {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        self.on_log(self.progress.step, scalars | self.probe.read())

    def seconds(self) -> float:
        """Of training, earlier processes included; of time shared with other runs, this one's share."""
        return self.progress.seconds + (time.perf_counter() - self._started) / self._sharing

    def share_time(self, runs: int) -> None:
        """From now on so many runs are trained side by side."""
        self.progress.seconds, self._started, self._sharing = self.seconds(), time.perf_counter(), runs

    def wait(self) -> None:
        """What passed since the last look at the clock was not this run's."""
        self._started = time.perf_counter()

    def release(self) -> None:
        """Let go of all that refers back to this run, so that it is freed with its last user, and not some time later
        by the garbage collector."""
        self.on_log, self.on_epoch, self.on_pause = _unheard, _unheard, _unheard
        self.features = self.replays = self._batches = self._rows = None
        self.forward = self.model


def _unheard(*_: Any) -> None:
    """Tell nobody."""
