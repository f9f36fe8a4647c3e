"""Steps that are tried: how long they take, what they give; nothing of them stays."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.meter import Meter
from runner.timing import timed

if TYPE_CHECKING:
    from runner.running import Run

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@contextlib.contextmanager
def untouched(runs: Sequence["Run"]) -> Iterator[None]:
    """Puts back what looks at gradients change: running statistics, batches that were begun, what is drawn next, what
    was counted. The gradients themselves are forgotten."""
    buffers = [(buffer, buffer.clone()) for run in runs for buffer in run.model.buffers()]
    draws = [(noise, noise.get_state()) for run in runs for noise in (run.noise, run.augmenting)]
    device = runs[0].device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), aside(runs):
            yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        for noise, state in draws:
            noise.set_state(state)
        for run in runs:
            run.rewind(losses=False)
            for p in run.model.parameters():
                p.grad = None


@contextlib.contextmanager
def aside(runs: Sequence["Run"]) -> Iterator[list[Meter]]:
    """Inside, what runs count goes into these."""
    before, meters = [run.meter for run in runs], [Meter() for _ in runs]
    try:
        for run, meter in zip(runs, meters):
            run.meter = meter
        yield meters
    finally:
        for run, meter in zip(runs, before):
            run.meter = meter


def fastest(work: Callable[[], Any], device: torch.device, looks: int) -> float:
    """Seconds of the fastest of so many calls, after one to warm up."""
    if device.type == "cpu" and torch.get_num_threads() == 1:  # whatever else this machine does
        return min([_cpu_seconds(work) for _ in range(looks + 1)][1:])
    return min([timed(work, device)[1] for _ in range(looks + 1)][1:])


def _cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@dataclass(frozen=True)
class Found:
    """What a step gave."""

    losses: Tensor
    gradients: list[Tensor | None]

    @classmethod
    def of(cls, losses: Tensor, leaves: Sequence[Tensor]) -> "Found":
        """A copy of what stands now."""
        return cls(losses.clone(), [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves])

    def off(self, wanted: "Found", precision: torch.dtype) -> str:
        """How far these are from others, in words; empty where they agree."""
        found = _distance([self.losses], [wanted.losses]), _distance(self.gradients, wanted.gradients)
        if all(off <= TOLERANCE[precision] for off in found):  # not where one is no number
            return ""
        return f"losses are {found[0]:.1g} off, gradients {found[1]:.1g}"


def _distance(found: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> float:
    """The largest difference between numbers, relative to the largest of their tensor, or to a hundredth of the largest
    of all, where a tensor is zero but for rounding."""
    if any((x is None) is not (y is None) for x, y in zip(found, wanted, strict=True)):
        return math.inf
    pairs = [(x.double(), y.double()) for x, y in zip(found, wanted) if x is not None]
    if not pairs:
        return 0.0
    apart = torch.stack([(x - y).abs().max() for x, y in pairs])
    sizes = torch.stack([y.abs().max() for _, y in pairs])
    return float((apart / sizes.clamp_min(max(1e-2 * float(sizes.max()), 1e-12))).max())
