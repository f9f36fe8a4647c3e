"""A run while it trains. What a step does stands here: draw, augment, mix (`next_batch`); forward, loss, penalties
(`loss`); clip, rate, optimizer, constraints, log (`step`).
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.core import memory
from runner.core.schema import PRECISIONS
from runner.core.seeds import generator
from runner.core.timeline import batches
from runner.data.normalize import Normalize, sample_by_class
from runner.data.splits import Split
from runner.evaluation.evaluate import Measured, Member, evaluate
from runner.model.stages import stage_parameters
from runner.optimizer.kernels import direct, lay_out, use_kernel
from runner.train.batch import Batch
from runner.train.metrics import Meter
from runner.train.parts import Parts
from runner.train.probes import Probe, hessian_ends
from runner.train.progress import Diverged, Progress, Row
from runner.train.protocols import Collective, Features, Gradients
from runner.train.selection import select_weights
from runner.train.slot import Seat

CURVATURE_IMAGES = 1024


class Run:
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
        self.on_pause: Callable[[Run], None] = _unheard
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
        self.seat: Seat | None = None  # its place in that program
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

    def next_batch(self) -> Batch:
        """Draws, augments and mixes the step's batch."""
        if self.following:
            self.next_rows()
        if self.features is not None:
            if self._batches is None:
                self._batches = self.features.batches(self._order(), self.augmenting)
            return self.mix(*next(self._batches), self.augmenting)
        if self._batches is None:
            self._batches = self.train_split.batches(self._order())
        images, labels = next(self._batches)
        return self.augment(images, labels, self.augmenting)

    def next_rows(self) -> Tensor:
        """The numbers of the step's images `[B]`, for who fetches them in place of `next_batch`."""
        if self._rows is None:
            self._rows = iter(self._order())
        rows = next(self._rows)
        for item in self.following:
            item.follow(rows, self.progress.step // self.steps_per_epoch, self.config["seed"])
        return rows

    def rewind(self, losses: bool = True) -> None:
        """Forgets the batches that were begun and, unless told not to, the losses that nobody has looked at."""
        self._batches = self._rows = None
        if losses:
            self.meter.clear()

    def augment(self, images: Tensor, labels: Tensor, draws: torch.Generator) -> Batch:
        """The pipeline, normalisation, and what mixes images and targets."""
        for transform in self.pipeline:
            images = transform(images, draws)
        return self.mix(self.normalize(images), labels, draws)

    def mix(self, images: Tensor, labels: Tensor, draws: torch.Generator) -> Batch:
        """What mixes images and targets; label smoothing, too."""
        targets = labels
        for item in self.mixers:
            images, targets = item.mix(images, targets, self.num_classes, draws)
        return Batch(images, targets, labels)

    def preview(self, count: int) -> Batch:
        """The first `count` training images as the network gets them; draws nothing that the run will draw."""
        rows = self._order()[0][:count][None]
        images, labels = next(self.train_split.batches(rows))
        return self.augment(images, labels, generator(self.config["seed"], "preview", self.device))

    def entering(self, count: int) -> Tensor:
        """What the network gets of the first `count` training images: features where they are kept."""
        images = self.preview(count).images
        return images if self.features is None else self.features.enter(images)

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

    def look(self, measured: Measured | None = None) -> None:
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

    def _order(self) -> Tensor:
        """Rows of image numbers for the rest of this epoch. Each epoch's order follows from the seed alone, so a
        run that resumes in the middle of one goes on with the same images."""
        epoch, done = divmod(self.progress.step, self.steps_per_epoch)
        draw = generator(self.config["seed"], f"order of epoch {epoch}")
        order = torch.randperm(len(self.train_split), generator=draw)
        return (
            order[: self.steps_per_epoch * self.batch_size].view(-1, self.batch_size)[done:].to(self.train_split.device)
        )

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

    def _end_epoch(self, measured: Measured | None) -> None:
        progress, count = self.progress, self.steps_per_epoch
        row: Row = {
            "epoch": progress.step // count,
            "step": progress.step,
            "train_loss": progress.loss_sum / count,
            "train_accuracy": progress.hits / (count * self.batch_size),
            "val_loss": None,
            "val_accuracy": None,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        progress.loss_sum = progress.hits = 0.0
        self._batches = self._rows = None
        if self.val_split is not None:
            measured = measured or self.measure()
            row |= {"val_loss": measured.loss, "val_accuracy": measured.accuracy}
            if not math.isfinite(measured.loss):
                raise Diverged(progress.step, f"the validation loss was {measured.loss} after step {progress.step}")
            progress.last_good |= {"val_loss": measured.loss, "val_accuracy": measured.accuracy}
            progress.judge(row, self.ensemble.watched(self), self.selection, self.config["early_stopping"])
        if self.curvature_every and row["epoch"] % self.curvature_every == 0:
            smallest, largest = self.curvature()
            self.on_log(progress.step, {"curvature/smallest": smallest, "curvature/largest": largest})
        row["seconds"] = round(self.seconds(), 3)
        progress.history.append(row)
        self.schedule.observe(row)
        self.ensemble.after_epoch(self, row)
        self.transfer.thaw(self.model, row["epoch"])
        self.train_mode()
        self.on_epoch(row)

    def measure(self) -> Measured:
        """The validation split, noise off; by the first of several processes."""
        if self.team is not None and not self.team.leads:
            return self.team.hear()
        members = self.seen([self.ensemble.watched(self).eval()], self.val_split)
        measured = evaluate(members, self.val_split, self.normalize, self.autocast, self.batch_size, self.num_classes)
        self.train_mode()
        if self.team is not None:
            self.team.tell(measured)
        return measured

    def seen(self, members: Sequence[torch.nn.Module], split: Split) -> Sequence[torch.nn.Module | Member]:
        """Networks as `evaluate` asks them for one pass: where the cache serves, from the cut on."""
        return members if self.features is None else self.features.members(members, split)

    def curvature(self) -> tuple[float, float]:
        """Return the smallest and the largest eigenvalue of the Hessian of the data loss on a sample of the training
        images, in full precision, noise and augmentation off."""
        rows = sample_by_class(self.train_split.labels, CURVATURE_IMAGES, generator(self.config["seed"], "curvature"))
        piece = min(CURVATURE_IMAGES // 4, max(1, self.batch_size // self.accumulate))  # as many as a step has
        parts = [(self.normalize(x), y) for x, y in self.train_split.batches(rows.split(piece))]
        self.model.eval()

        def pieces() -> Iterator[Tensor]:
            for images, labels in parts:
                yield cross_entropy(self.model(images), labels) * (len(labels) / len(rows))

        found = hessian_ends([p for p in self.trained if p.requires_grad], pieces)
        self.train_mode()
        return found

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

    # -- what a checkpoint keeps --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Enough to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ensemble": self.ensemble.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "generators": {"augmentation": self.augmenting.get_state(), "noise": self.noise.get_state()},
            "global_noise": torch.get_rng_state(),
            "device_noise": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "seat": None if self.seat is None else tuple(self.seat),
            "compiled": self.compiled,
            "progress": vars(replace(self.progress, seconds=self.seconds())),
            **self._between_logs(),
        }

    def _between_logs(self) -> dict[str, Any]:
        """Return what was measured since the last line of metrics: nothing, where the state is saved at one."""
        if self.meter.since == self.progress.step:
            return {}
        return {"meter": self.meter.state_dict(), "probe": self.probe.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lay_out()
        self.schedule.load_state_dict(state["schedule"])
        self.ensemble.load_state_dict(state["ensemble"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.augmenting.set_state(state["generators"]["augmentation"].cpu())
        self.noise.set_state(state["generators"]["noise"].cpu())
        torch.set_rng_state(state["global_noise"].cpu())
        if state["device_noise"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_noise"].cpu(), self.device)
        self.seat = None if state["seat"] is None else Seat(*state["seat"])
        self.compiled = state.get("compiled", False)  # there was no trial before checkpoints had it
        self.progress = Progress(**state["progress"])
        self.meter.since, self._started = self.progress.step, time.perf_counter()
        self.rewind()
        if "meter" in state:
            self.meter.load_state_dict(state["meter"])
            self.probe.load_state_dict(state["probe"])
        self.transfer.thaw(self.model, self.progress.step // self.steps_per_epoch)


DTYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in PRECISIONS.items()}


def _unheard(*_: Any) -> None:
    """Tell nobody."""


def precision(config: dict[str, Any], device: torch.device) -> torch.dtype:
    """The type of the forward pass; `auto` is bfloat16 on a GPU that has it, but not for full batches."""
    name = config["precision"]
    if name == "auto":
        if config["optimizer"]["full_batch"]:  # whose line searches compare losses
            return torch.float32
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return DTYPES[name]


def resolved(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the config with the precision that a run has on a device, in place of `auto`."""
    dtype = precision(config, device)
    return config | {"precision": next(name for name, known in DTYPES.items() if known is dtype)}


def channels_last(config: dict[str, Any], model: torch.nn.Module) -> bool:
    """Whether images lie channels-last: `auto` is where there are convolutions."""
    if config["channels_last"] == "auto":
        return any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return config["channels_last"]
