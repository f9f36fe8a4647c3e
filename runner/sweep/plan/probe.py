"""Probe: times a few training steps and a part of a validation, to estimate a run's cost. It writes no files."""

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

WARM = 2  # steps before timing, for allocations and the choice of kernels
STEPS = 20  # most timed steps
SECONDS = 0.4  # of timed steps; after them no further step starts
IMAGES = 1024  # most images of a validation
LARGEST = {"cpu": 5e10, "mps": 1e12, "cuda": 1e13}  # operations of a step; a larger one is measured on fewer images
EVALUATIONS = 25  # of the loss in one step of a full-batch optimizer
BACKWARD = 2  # cost of a backward pass, in forward passes


@dataclass(frozen=True)
class Timings:
    """Measured times and sizes of a program."""

    step: float  # seconds of a training step
    flops: float  # floating-point operations of a training step; 0: not countable
    validated: float  # seconds for one image of a validation
    tested: float  # seconds for one image of the final evaluation
    built: float  # seconds until the first step
    frozen: float  # seconds for one image's features of frozen stages, computed once for many runs; 0: no cache
    views: int  # cached augmentations of each training image
    memory: float  # peak of the process or the GPU, in mebibytes
    state: int  # bytes of a checkpoint
    part: float  # measured fraction of the batch


class ProbeState(TrainState):
    """Train state without epochs: each step draws its batch anew."""

    def _order(self) -> Tensor:
        images, device = len(self.train_split), self.train_split.device
        if self.config["optimizer"]["full_batch"]:
            return torch.arange(images, device=device).expand(WARM + STEPS, images)
        draws = generator(self.config["seed"], "probe")
        return torch.randint(images, (WARM + STEPS, self.batch_size), generator=draws).to(device)


class InMemoryFeatures(FeatureCache):
    """Features of frozen stages in memory only, so that a probe writes no file."""

    def _cache(self) -> Cache:
        return Cache(None)


def probe(resources: Resources, config: dict[str, Any], facts: Facts, threads: int) -> Timings:
    """Train a checked combination for a few steps on its device; return the timings.

    threads: of the CPU. Raises any error of the run's first steps.
    """
    device = check_device(config)
    memory.reset(device)
    with process_settings(config, threads), torch.random.fork_rng():
        return _probe(resources, config, facts, device)


def _probe(resources: Resources, config: dict[str, Any], facts: Facts, device: torch.device) -> Timings:
    before, start = memory.peak(device), time.perf_counter()
    config, part = _reduce_batch(config, facts, device)
    all_splits = resources.splits(config, device)
    count = max(2, min(IMAGES, int(LARGEST[device.type] / max(1, facts.flops))))
    images = round(facts.train_size * part) if config["optimizer"]["full_batch"] else max(count, config["batch_size"])
    eval_split = _first(all_splits.val or all_splits.train, count)
    splits = replace(all_splits, train=_first(all_splits.train, images), val=eval_split, test=eval_split)
    noise = generator(config["seed"], "noise", device)
    parts = resources.parts(config, all_splits, device, noise)
    parts = replace(parts, splits=splits, timeline=Timeline(parts.timeline.steps, 1 << 60))
    run = ProbeState(config, parts, device, noise)
    frozen = _use_features(run)
    run.train_mode()
    _step(run)
    wait(device)
    built = time.perf_counter() - start
    flops = _count_flops(run)
    step_seconds = _mean_seconds(functools.partial(_step, run), device, WARM + STEPS - run.progress.step)
    _, first = timed(run.measure, device)
    validated = first if first > SECONDS else timed(run.measure, device)[1]
    evaluation = parts.evaluation
    evaluation.begin(run.pipeline, generator(config["seed"], "evaluation", device))
    members = [run.ensemble.watched(run).eval()]
    args = (eval_split, run.normalize, run.autocast, run.batch_size, run.num_classes, evaluation)
    _, tested = timed(lambda: examine(members, *args, run.ensemble.average), device)
    peak = memory.peak(device)
    return Timings(
        step=step_seconds / part,
        flops=flops / part,
        validated=validated / len(eval_split),
        tested=tested / len(eval_split),
        built=built,
        frozen=frozen,
        views=count_variants(run.pipeline) if frozen else 1,
        memory=peak if frozen else before + (peak - before) / part,
        state=_checkpoint_bytes(run),
        part=part,
    )


def _reduce_batch(config: dict[str, Any], facts: Facts, device: torch.device) -> tuple[dict[str, Any], float]:
    """Return the config with a batch small enough to measure, and the fraction of the whole batch."""
    if config["optimizer"]["full_batch"]:
        size, evaluations = facts.train_size, EVALUATIONS
    else:
        size, evaluations = config["batch_size"], 1
    most = int(LARGEST[device.type] / max(1, facts.flops * (1 + BACKWARD) * evaluations))
    images = max(min(size, most), min(size, 2 * config["accumulate"]))
    # Do not compile, because that takes longer than the probe.
    changes = {"compile": False, "log": config["log"] | {"every": 1 << 60}}
    return config | changes | {"batch_size": min(images, config["batch_size"])}, images / size


def _first(split: Split, count: int) -> Split:
    return split.select(torch.arange(min(count, len(split)), device=split.labels.device))


def _use_features(run: TrainState) -> float:
    """Let the run train on cached features of frozen stages, if it would; return their seconds for one image."""
    if run.transfer.cache is False:
        return 0.0
    splits = run.parts.splits
    try:
        features = InMemoryFeatures(run, splits, Store())
    except Declined:
        return 0.0
    run.use(features)
    _, seconds = timed(lambda: next(run.features.batches([torch.arange(1)], run.augmenting)), run.device)
    return seconds / (len(splits.train) * count_variants(run.pipeline))


def _step(run: TrainState) -> None:
    step([run], EagerProgram())


def _count_flops(run: TrainState) -> float:
    with flop_counter() as counter:
        _step(run)
    return float(counter.get_total_flops())


def _mean_seconds(work: Callable[[], None], device: torch.device, most: int) -> float:
    """Return the mean duration of a call, over at most `most` calls in `SECONDS`."""
    durations: list[float] = []
    while len(durations) < most and sum(durations) < SECONDS:
        durations.append(timed(work, device)[1])
    return sum(durations) / len(durations)


def _checkpoint_bytes(run: TrainState) -> int:
    """Return the bytes of a checkpoint: the train state, and the best weights where they are kept."""
    state = run.state_dict()
    for key in ("meter", "probe"):  # small, and present only between two lines of metrics
        state.pop(key, None)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(state)}
    weights = _tensors(run.ensemble.watched(run).state_dict()) if run.selection.keeps_best else ()
    return sum(storages.values()) + sum(tensor.nbytes for tensor in weights)


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        yield from itertools.chain.from_iterable(map(_tensors, node.values()))
    elif isinstance(node, list | tuple):
        yield from itertools.chain.from_iterable(map(_tensors, node))
