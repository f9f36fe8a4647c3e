"""What a run costs, measured: a few steps of its training and a part of its validation, nothing of it kept."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from runner.core import memory
from runner.core.devices import check_device
from runner.core.seeds import generator
from runner.core.startup.torch_compiler import flop_counter
from runner.core.timeline import Timeline
from runner.core.timing import timed, wait
from runner.data.splits import Split
from runner.evaluation.evaluate import examine
from runner.execution.eager import EagerProgram
from runner.execution.features.activations import count_variants
from runner.execution.features.cache import FeatureCache
from runner.execution.features.eligible import Declined
from runner.execution.features.store import Store
from runner.store.cache import Cache
from runner.task.base import process_settings
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.train.loop import step
from runner.train.state import TrainState

WARM = 2  # steps before the clock runs: allocations, kernels chosen at first use
STEPS = 20  # at most, and seconds after which no further one begins
SECONDS = 0.4
IMAGES = 1024  # of a validation
LARGEST = {"cpu": 5e10, "mps": 1e12, "cuda": 1e13}  # operations of a step; a larger one is measured on fewer images
LOOKS = 25  # at the loss, in one step of a full-batch optimizer
BACKWARD = 2  # forward passes that a backward pass costs


@dataclass(frozen=True)
class Timings:
    """Seconds and sizes of a program."""

    step: float  # seconds of a training step
    flops: float  # floating-point operations of a training step; 0: they could not be counted
    validated: float  # seconds for one image of a validation
    tested: float  # seconds for one image of the evaluation at the end
    built: float  # seconds until the first step
    frozen: float  # seconds for one image of the frozen stages' answers, computed once for many runs; 0: no cache
    views: int  # of each training image, which the cache keeps
    memory: float  # mebibytes at the peak: the process's, or the GPU's
    state: int  # bytes of a checkpoint
    part: float  # of a batch that a measured step had


class Brief(TrainState):
    """A run without epochs: its batches are of images drawn anew for each step."""

    def _order(self) -> Tensor:
        images, device = len(self.train_split), self.train_split.device
        if self.config["optimizer"]["full_batch"]:
            return torch.arange(images, device=device).expand(WARM + STEPS, images)
        draws = generator(self.config["seed"], "probe")
        return torch.randint(images, (WARM + STEPS, self.batch_size), generator=draws).to(device)


class InMemory(FeatureCache):
    """The frozen stages' answers, for the probe alone: in no file."""

    def _cache(self) -> Cache:
        return Cache(None)


def probe(resources: Resources, config: dict[str, Any], facts: Facts, threads: int) -> Timings:
    """Trains a checked combination for a moment, on this process's device and with so many threads; writes nothing.

    Raises whatever the run itself would raise in its first steps.
    """
    device = check_device(config)
    memory.reset(device)
    with process_settings(config, threads), torch.random.fork_rng():
        return _probe(resources, config, facts, device)


def _probe(resources: Resources, config: dict[str, Any], facts: Facts, device: torch.device) -> Timings:
    before, began = memory.peak(device), time.perf_counter()
    config, part = _smaller(config, facts, device)
    whole = resources.splits(config, device)
    count = max(2, min(IMAGES, int(LARGEST[device.type] / max(1, facts.flops))))
    images = round(facts.train_size * part) if config["optimizer"]["full_batch"] else max(count, config["batch_size"])
    judged = _first(whole.val or whole.train, count)
    splits = replace(whole, train=_first(whole.train, images), val=judged, test=judged)
    noise = generator(config["seed"], "noise", device)
    parts = resources.parts(config, whole, device, noise)
    parts = replace(parts, splits=splits, timeline=Timeline(parts.timeline.steps, 1 << 60))
    run = Brief(config, parts, device, noise)
    frozen = _serve(run)
    run.train_mode()
    _step(run)
    wait(device)
    built = time.perf_counter() - began
    flops = _flops(run)
    step = _mean_seconds(functools.partial(_step, run), device, WARM + STEPS - run.progress.step)
    _, first = timed(run.measure, device)
    validated = first if first > SECONDS else timed(run.measure, device)[1]
    evaluation = parts.evaluation
    evaluation.begin(run.pipeline, generator(config["seed"], "evaluation", device))
    members = [run.ensemble.watched(run).eval()]
    asked = (judged, run.normalize, run.autocast, run.batch_size, run.num_classes, evaluation, run.ensemble.average)
    _, tested = timed(lambda: examine(members, *asked), device)
    peak = memory.peak(device)
    return Timings(
        step=step / part,
        flops=flops / part,
        validated=validated / len(judged),
        tested=tested / len(judged),
        built=built,
        frozen=frozen,
        views=count_variants(run.pipeline) if frozen else 1,
        memory=peak if frozen else before + (peak - before) / part,
        state=_state(run),
        part=part,
    )


def _smaller(config: dict[str, Any], facts: Facts, device: torch.device) -> tuple[dict[str, Any], float]:
    """The config with a batch that can be measured, and which part of the batch that is."""
    if config["optimizer"]["full_batch"]:
        size, looks = facts.train_size, LOOKS
    else:
        size, looks = config["batch_size"], 1
    most = int(LARGEST[device.type] / max(1, facts.flops * (1 + BACKWARD) * looks))
    images = max(min(size, most), min(size, 2 * config["accumulate"]))
    quiet = config | {"compile": False, "log": config["log"] | {"every": 1 << 60}}  # compiling takes longer than all
    return quiet | {"batch_size": min(images, config["batch_size"])}, images / size


def _first(split: Split, count: int) -> Split:
    return split.select(torch.arange(min(count, len(split)), device=split.labels.device))


def _serve(run: TrainState) -> float:
    """Has the run train on the frozen stages' answers where it would; seconds that they take for one image."""
    if run.transfer.cache is False:
        return 0.0
    splits = run.parts.splits
    try:
        features = InMemory(run, splits, Store())
    except Declined:
        return 0.0
    run.use(features)
    _, seconds = timed(lambda: next(run.features.batches([torch.arange(1)], run.augmenting)), run.device)
    return seconds / (len(splits.train) * count_variants(run.pipeline))


def _step(run: TrainState) -> None:
    step([run], EagerProgram())


def _flops(run: TrainState) -> float:
    with flop_counter() as counter:
        _step(run)
    return float(counter.get_total_flops())


def _mean_seconds(work: Callable[[], None], device: torch.device, most: int) -> float:
    """Of a call, over as many as fit."""
    taken: list[float] = []
    while len(taken) < most and sum(taken) < SECONDS:
        taken.append(timed(work, device)[1])
    return sum(taken) / len(taken)


def _state(run: TrainState) -> int:
    """Bytes of what a checkpoint keeps; the best weights beside the last."""
    state = run.state_dict()
    for key in ("meter", "probe"):  # between two lines of metrics alone, and small
        state.pop(key, None)
    kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(state)}
    weights = _tensors(run.ensemble.watched(run).state_dict()) if run.selection.keeps_best else ()
    return sum(kept.values()) + sum(tensor.nbytes for tensor in weights)


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        yield from itertools.chain.from_iterable(map(_tensors, node.values()))
    elif isinstance(node, list | tuple):
        yield from itertools.chain.from_iterable(map(_tensors, node))
