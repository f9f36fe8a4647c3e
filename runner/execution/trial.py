"""Trials: measure and compare two ways of computing gradients, then restore the runs."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runner.core import memory
from runner.core.text import type_and_line
from runner.core.timing import timed
from runner.execution.closeness import TOLERANCE, distance
from runner.execution.decision import Decision
from runner.train.metrics import Meter

if TYPE_CHECKING:
    from runner.train.state import TrainState

GAIN = 1.05  # minimum speed-up to choose the other way
REPEATS = 3  # measurements; the fastest counts


class Unusable(Exception):
    """Raised if a way of computing gradients cannot be used; its text is the reason."""


@dataclass(frozen=True)
class Trial:
    """Two ways to compute the gradients of a step, plain and other; both start from the runs' current state."""

    runs: Sequence["TrainState"]
    leaves: Sequence[Tensor]  # tensors that receive gradients
    plain: Callable[[], Tensor]  # returns the losses and sets the gradients of the leaves
    other: Callable[[], Tensor]
    steps: int  # remaining steps
    warm: int = 0  # warm-up calls of the other way, such as those before a capture
    preparation: str = ""  # name of the other way's costly first call, which the remaining steps must pay back
    least: float = 0.0  # minimum of remaining seconds with the plain way; with less there is no trial

    def decide(self) -> Decision | None:
        """Choose the other way if its result is equal, it is clearly faster and its preparation pays.

        Return None if less than `least` seconds are left. Errors of the plain way are raised; an error of the other way
        decides against it.
        """
        device = self.runs[0].device
        with untouched(self.runs):
            losses, plain = timed(self.plain, device)
            expected = StepResult.of(losses, self.leaves)
            if plain * self.steps >= self.least:  # the first call is the slowest
                plain = fastest(self.plain, device)
        if plain * self.steps < self.least:
            return None
        try:
            return self._against(plain, expected)
        except Unusable as error:
            return Decision(False, str(error))
        except Exception as error:  # compilers raise many kinds
            memory.free(device)
            return Decision(False, type_and_line(error))

    def _against(self, plain: float, expected: "StepResult") -> Decision:
        run = self.runs[0]
        with untouched(self.runs):
            for _ in range(self.warm):
                self.other()
        with untouched(self.runs):
            losses, first = timed(self.other, run.device)
            if difference := StepResult.of(losses, self.leaves).describe_difference(expected, run.precision):
                return Decision(False, difference)
            other = fastest(self.other, run.device)
        cost = f", and {self.preparation} {first:.0f} s," if self.preparation else ""
        reason = f"gradients of a step take {1e3 * other:.3g} ms{cost} against {1e3 * plain:.3g} ms"
        pays = not self.preparation or (plain - other) * self.steps >= first
        return Decision(is_faster(other, plain) and pays, reason)


def is_faster(other: float, plain: float) -> bool:
    """Return whether another way is clearly faster than the plain one; both in seconds per step."""
    return plain >= GAIN * other


@contextlib.contextmanager
def untouched(runs: Sequence["TrainState"]) -> Iterator[None]:
    """Restore buffers, batches, generators and meters on exit; delete the gradients."""
    buffers = [(buffer, buffer.clone()) for run in runs for buffer in run.model.buffers()]
    draws = [(noise, noise.get_state()) for run in runs for noise in (run.noise, run.augmenting)]
    device = runs[0].device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), temporary_meters(runs):
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
def temporary_meters(runs: Sequence["TrainState"]) -> Iterator[list[Meter]]:
    """Replace the runs' meters by new ones, which are yielded, and restore them on exit."""
    before, meters = [run.meter for run in runs], [Meter() for _ in runs]
    try:
        for run, meter in zip(runs, meters):
            run.meter = meter
        yield meters
    finally:
        for run, meter in zip(runs, before):
            run.meter = meter


def fastest(work: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> float:
    """Return the seconds of the fastest of several calls, after a warm-up call."""
    if device.type == "cpu" and torch.get_num_threads() == 1:  # CPU time, because other processes do not disturb it
        return min([_cpu_seconds(work) for _ in range(repeats + 1)][1:])
    return min([timed(work, device)[1] for _ in range(repeats + 1)][1:])


def _cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@dataclass(frozen=True)
class StepResult:
    """Losses and gradients of a step."""

    losses: Tensor
    gradients: list[Tensor | None]

    @classmethod
    def of(cls, losses: Tensor, leaves: Sequence[Tensor]) -> "StepResult":
        """Return copies of the losses and of the leaves' current gradients."""
        return cls(losses.clone(), [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves])

    def describe_difference(self, expected: "StepResult", precision: torch.dtype) -> str:
        """Return a description of the difference from another result; empty if they agree."""
        losses = distance([self.losses], [expected.losses])
        gradients = distance(self.gradients, expected.gradients)
        if losses <= TOLERANCE[precision] and gradients <= TOLERANCE[precision]:  # false for NaN
            return ""
        return f"losses are {losses:.1g} off, gradients {gradients:.1g}"
