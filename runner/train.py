"""The loop. It trains a list of runs; one run is the list of length one.

What a step does stands in `Run`: draw, augment, mix (`next_batch`); forward, loss, penalties (`loss`); clip, rate,
optimizer, constraints, log (`step`). Only the `Program` differs between a lone run and runs that share one.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.build import Parts
from runner.data.splits import Split
from runner.evaluate import Member, evaluate
from runner.inputs import Normalize
from runner.model.stages import stage_parameters
from runner.seeds import generator
from runner.steps import batches
from runner.tracking.probes import Probe, hessian_ends

if TYPE_CHECKING:
    from runner.distributed import Team
    from runner.transfer.cache import Features

CURVATURE_IMAGES = 1024

Row = dict[str, float | int | None]


@dataclass
class Batch:
    """A training batch, or one micro-batch of it."""

    images: Tensor  # [B, C, H, W], augmented and normalised; or what enters the first stage that trains
    targets: Tensor  # [B] labels, or [B, K] probabilities
    labels: Tensor  # [B], as in the data set
    share: float = 1.0  # of the whole batch
    first: bool = True  # of its micro-batches
    again: bool = False  # a further look of the same step, whose accuracy is not counted

    def split(self, parts: int) -> Iterator["Batch"]:
        """Micro-batches of nearly equal size, whose shares add up to this batch's."""
        if parts == 1:
            yield self
            return
        pieces = (
            self.images.tensor_split(parts),
            self.targets.tensor_split(parts),
            self.labels.tensor_split(parts),
        )
        for number, (images, targets, labels) in enumerate(zip(*pieces)):
            share = self.share * len(images) / len(self.images)
            yield Batch(images, targets, labels, share, number == 0, self.again)


class Objective:
    """The loss of one step, as its optimizer sees it; called, it is torch's closure.

    The program was asked already when the step began: the first call returns what it found.
    """

    def __init__(self, run: "Run", batch: Batch, loss: Tensor, program: "Program"):
        self._run, self._batch, self._ready, self._program = run, batch, [loss], program

    def __call__(self) -> Tensor:
        """The loss; the parameters' `grad` is set, and clipped where the run clips."""
        if self._ready:
            loss = self._ready.pop()
        else:
            (loss,) = self._program.gradients([self._run], [replace(self._batch, again=True)])
        self._run.clip_gradients()
        return loss

    @torch.no_grad()
    def value(self) -> Tensor:
        """The loss alone, for line searches."""
        return sum(self.pieces())

    def pieces(self) -> Iterator[Tensor]:
        """Losses of the micro-batches, with their graphs, that add up to the loss: for second derivatives."""
        for part in replace(self._batch, again=True).split(self._run.accumulate):
            yield self._run.loss(part)


class Diverged(Exception):
    """A loss was not finite: an end, and a result."""

    def __init__(self, step: int, reason: str):
        super().__init__(reason)
        self.step, self.reason = step, reason


class Pruned(Exception):
    """A judge saw no reason to go on: an end, and a result."""


@dataclass
class Progress:
    """How far a run has come: all that a checkpoint must keep beside weights, optimizer and generators."""

    step: int = 0
    history: list[Row] = field(default_factory=list)
    best: Row | None = None
    best_weights: dict[str, Tensor] | None = None
    waited: int = 0  # epochs without improvement
    watched: float | None = None  # the early-stopping metric at its best
    stopped: bool = False
    seconds: float = 0.0  # of training, before this process
    hits: float = 0.0  # right answers of the epoch so far, on training batches
    loss_sum: float = 0.0
    last_good: dict[str, float] = field(default_factory=dict)


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
        stack = parts.stack.values()
        self.mixers = [item for item in stack if item.overrides("mix")]
        self.penalties = {name: item for name, item in parts.stack.items() if item.overrides("penalty")}
        self.output_penalties = {name: item for name, item in parts.stack.items() if item.overrides("output_penalty")}
        self.transfer, self.ensemble = parts.transfer, parts.ensemble
        self.constraints = [item for item in stack if item.overrides("after_step")]
        self.averages = self.ensemble.overrides("after_step")
        self.transfer.thaw(self.model, 0)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.precision = precision(config, device)
        self.scaler = torch.amp.GradScaler(device.type) if self.precision == torch.float16 else None
        self.memory_format = torch.channels_last if channels_last(config, self.model) else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.normalize = Normalize(splits, device, self.memory_format)
        self.forward = torch.compile(self.model) if config["compile"] else self.model
        moved = {id(p) for p in self.trained}
        stages = [(name, [p for _, p in named if id(p) in moved]) for name, named in stage_parameters(self.model)]
        self.probe = Probe(stages, config["probe"]["every"])
        self.curvature_every = config["probe"]["curvature_every"]
        self.every, self.clip = config["log"]["every"], config["clip_grad_norm"]
        self.progress = Progress()
        self.on_log: Callable[[int, dict[str, float]], None] = lambda step, scalars: None
        self.on_epoch: Callable[[Row], None] = lambda row: None
        self.on_pause: Callable[[Run], None] = lambda run: None
        # Kept on the device, one small tensor a step, until the next look at them.
        self._losses: list[Tensor] = []
        self._guesses: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._norm = torch.zeros(())  # of the gradient before it was last clipped
        self._penalties: dict[str, Tensor] = {}  # the last step's, by item
        self._logged = 0  # the step up to which losses were read
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None
        self._rows: Iterator[Tensor] | None = None
        self.features: Features | None = None
        self.team: Team | None = None  # processes that train this run together
        self.left = False  # by an error, or a judge
        self.fused: int | None = None  # runs of the program that it began in, where several share one
        self.seat: tuple[int, int] | None = None  # its place in that program, of how many
        self._sharing = 1  # runs that this process trains side by side
        self._started = time.perf_counter()
        self.ensemble.begin(self)

    def use(self, features: "Features") -> None:
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
        return next(self._rows)

    def rewind(self, losses: bool = True) -> None:
        """Forgets the batches that were begun and, unless told not to, the losses that nobody has looked at."""
        self._batches = self._rows = None
        if losses:
            for kept in (self._losses, self._guesses, self._labels):
                kept.clear()

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

    def loss(self, batch: Batch) -> Tensor:
        """The data loss of a (micro-)batch and the penalties, times the batch's share."""
        with self.autocast():
            logits = self.forward(batch.images)
            loss = cross_entropy(logits, batch.targets)
        if self.penalties or self.output_penalties:
            loss = loss + self.penalty(logits, batch)
        if not batch.again:
            self.count(logits.detach().argmax(1), batch.labels)
        return loss if batch.share == 1.0 else loss * batch.share

    def penalty(self, logits: Tensor, batch: Batch) -> Tensor:
        """What the stack adds to the data loss; `logits` [B, K] of the (micro-)batch."""
        terms = {name: item.penalty(self.model) for name, item in self.penalties.items()}
        terms |= {name: item.output_penalty(logits.float()) for name, item in self.output_penalties.items()}
        for name, term in terms.items():
            part = term.detach() * batch.share
            self._penalties[name] = part if batch.first else self._penalties[name] + part
        return sum(terms.values())

    def count(self, guesses: Tensor, labels: Tensor) -> None:
        """Takes answers [B] and labels [B] into the epoch's accuracy."""
        self._guesses.append(guesses)
        self._labels.append(labels)

    def backward(self, loss: Tensor) -> None:
        """Adds to the gradients."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, loss: Tensor, objective: Objective) -> None:
        """The update, from gradients that stand; optimizers that look more than once a step ask the objective."""
        self.before_update(loss)
        self.update(objective)
        self.after_update()

    def before_update(self, loss: Tensor) -> None:
        """The step's rates; what is measured before the optimizer moves."""
        self._losses.append(loss)
        self._set_rates()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
            self.clip_gradients()
        if self.probe.due(self.progress.step):
            self.probe.before()

    def update(self, objective: Objective) -> None:
        """The optimizer's step."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step(objective)

    def after_update(self) -> None:
        """What follows the optimizer: constraints, averages, logs, at an epoch's end its validation."""
        progress = self.progress
        if self.probe.due(progress.step):
            self.probe.after(progress.step)
        for item in self.constraints:
            item.after_step(self.model)
        if self.averages:
            self.ensemble.after_step(self)
        progress.step += 1
        epoch_ends = progress.step % self.steps_per_epoch == 0
        if epoch_ends or progress.step - self._logged == self.every:
            self._log()
            if epoch_ends:
                self._end_epoch()
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
            self._norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip)

    def _log(self) -> None:
        """Reads the losses since the last time: the one place where the host waits for the device."""
        progress = self.progress
        losses = torch.stack(self._losses).tolist()
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            good = progress.last_good | ({"train_loss": losses[bad - 1]} if bad else {})
            words = ", ".join(f"{key} {value:.4g}" for key, value in good.items()) or "none"
            step = self._logged + bad + 1  # counted from 1, as in metrics.csv and TensorBoard
            raise Diverged(step, f"the loss was {losses[bad]} at step {step}; last good values: {words}")
        progress.loss_sum += math.fsum(losses)
        hits = (torch.cat(self._guesses) == torch.cat(self._labels)).sum()
        progress.hits += (hits if self.team is None else self.team.total(hits)).item()
        if self.team is not None:
            self._penalties = {name: self.team.total(part.clone()) for name, part in self._penalties.items()}
        for kept in (self._losses, self._guesses, self._labels):
            kept.clear()
        scalars = {"train/loss": math.fsum(losses) / len(losses)}
        scalars |= {f"train/penalty/{name}": value.item() for name, value in self._penalties.items()}
        scalars |= {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        if self.clip is not None:
            scalars["grad_norm/before_clipping"] = float(self._norm)
        scalars |= self.probe.read()
        progress.last_good["train_loss"] = losses[-1]
        self._logged = progress.step
        self.on_log(progress.step, scalars)

    def _end_epoch(self) -> None:
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
            measured = self.measure()
            row |= {"val_loss": measured.loss, "val_accuracy": measured.accuracy}
            if not math.isfinite(measured.loss):
                raise Diverged(progress.step, f"the validation loss was {measured.loss} after step {progress.step}")
            progress.last_good |= {"val_loss": measured.loss, "val_accuracy": measured.accuracy}
            self._judge(row)
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

    def measure(self) -> Any:
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
        """Smallest and largest eigenvalue of the Hessian of the data loss on the first training images, in full
        precision, noise and augmentation off."""
        rows = torch.arange(min(CURVATURE_IMAGES, len(self.train_split)), device=self.train_split.device)
        parts = [(self.normalize(x), y) for x, y in self.train_split.batches(rows.split(CURVATURE_IMAGES // 4))]
        self.model.eval()

        def pieces() -> Iterator[Tensor]:
            for images, labels in parts:
                yield cross_entropy(self.model(images), labels) * (len(labels) / len(rows))

        found = hessian_ends([p for p in self.trained if p.requires_grad], pieces)
        self.train_mode()
        return found

    def _judge(self, row: Row) -> None:
        """Keeps the best weights; ends the run where nothing improves."""
        progress, stop = self.progress, self.config["early_stopping"]
        keep = self.config["checkpoint"]
        if keep["select"] != "last" and (progress.best is None or better(row, progress.best, keep["metric"])):
            progress.best = row
            weights = self.ensemble.watched(self).state_dict()
            progress.best_weights = {name: value.clone() for name, value in weights.items()}
        if stop["patience"] is None:
            return
        value = -row["val_accuracy"] if stop["metric"] == "val_accuracy" else row["val_loss"]
        if progress.watched is None or value < progress.watched - stop["min_delta"]:
            progress.watched, progress.waited = value, 0
        else:
            progress.waited += 1
        progress.stopped = progress.waited >= stop["patience"]

    def seconds(self) -> float:
        """Of training, earlier processes included; of time shared with other runs, this one's share."""
        return self.progress.seconds + (time.perf_counter() - self._started) / self._sharing

    def share_time(self, runs: int) -> None:
        """From now on so many runs are trained side by side."""
        self.progress.seconds, self._started, self._sharing = self.seconds(), time.perf_counter(), runs

    def wait(self) -> None:
        """What passed since the last look at the clock was not this run's."""
        self._started = time.perf_counter()

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
            "seat": self.seat,
            "progress": vars(replace(self.progress, seconds=self.seconds())),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ensemble.load_state_dict(state["ensemble"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.augmenting.set_state(state["generators"]["augmentation"].cpu())
        self.noise.set_state(state["generators"]["noise"].cpu())
        torch.set_rng_state(state["global_noise"].cpu())
        if state["device_noise"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_noise"].cpu(), self.device)
        self.seat = state["seat"]
        self.progress = Progress(**state["progress"])
        self._logged, self._started = self.progress.step, time.perf_counter()
        self.rewind()
        self.transfer.thaw(self.model, self.progress.step // self.steps_per_epoch)


class Program:
    """How the runs of a loop get their batches and gradients, and take their steps."""

    def batches(self, runs: list[Run]) -> list[Batch]:
        """A batch of each run."""
        return [run.next_batch() for run in runs]

    def gradients(self, runs: list[Run], batches: list[Batch]) -> list[Tensor]:
        """The loss of each run on its batch; its gradients stand."""
        raise NotImplementedError

    def update(self, runs: list[Run], objectives: list[Objective]) -> None:
        """The optimizers' steps, from gradients that stand."""
        for run, objective in zip(runs, objectives):
            run.update(objective)


class Alone(Program):
    """Each run by a program of its own, micro-batch by micro-batch."""

    def gradients(self, runs: list[Run], batches: list[Batch]) -> list[Tensor]:
        losses = []
        for run, batch in zip(runs, batches):
            run.optimizer.zero_grad()
            total = None
            for part in batch.split(run.accumulate):
                loss = run.loss(part)
                run.backward(loss)
                total = loss.detach() if total is None else total + loss.detach()
            losses.append(total)
        return losses


Leave = Callable[[Run, Exception], None]


def train(runs: list[Run], program: Program | None = None, leave: Leave | None = None) -> None:
    """Trains all runs to their ends, side by side.

    Raises `Diverged`, and what listeners raise: unless there is somebody to `leave` to, who is told of the run and the
    error, and the others go on.
    """
    program = program or Alone()
    for run in runs:
        run.train_mode()
    active: list[Run] = []
    while True:
        going = [run for run in runs if not run.ended]
        if len(going) != len(active):
            for run in (*active, *going):
                run.share_time(max(1, len(going)))
            active = going
        if not active:
            return
        step(active, program, leave)


def step(runs: list[Run], program: Program, leave: Leave | None = None) -> None:
    """A step of each run."""
    batches = program.batches(runs)
    losses = program.gradients(runs, batches)
    objectives = [Objective(run, batch, loss, program) for run, batch, loss in zip(runs, batches, losses)]
    for run, loss in zip(runs, losses):
        run.before_update(loss)
    program.update(runs, objectives)
    for run in runs:
        try:
            run.after_update()
        except Exception as error:
            if leave is None:
                raise
            leave(run, error)


def better(row: Row, best: Row, metric: str) -> bool:
    """Whether a row beats the best so far; the loss breaks ties of accuracy, and the earlier epoch those that stay."""
    if metric == "val_accuracy":
        return (row["val_accuracy"], -row["val_loss"]) > (best["val_accuracy"], -best["val_loss"])
    return row["val_loss"] < best["val_loss"]


def precision(config: dict[str, Any], device: torch.device) -> torch.dtype:
    """The type of the forward pass; `auto` is bfloat16 on a GPU that has it, but not for full batches."""
    name = config["precision"]
    if name == "auto":
        if config["optimizer"]["full_batch"]:  # whose line searches compare losses
            return torch.float32
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def channels_last(config: dict[str, Any], model: torch.nn.Module) -> bool:
    """Whether images lie channels-last: `auto` is where there are convolutions."""
    if config["channels_last"] == "auto":
        return any(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    return config["channels_last"]
