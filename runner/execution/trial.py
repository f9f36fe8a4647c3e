"""A trial of another way to compute gradients: measured beside the plain one, compared with it, and undone."""

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

GAIN = 1.05  # that another way must be faster to be chosen
LOOKS = 3  # of which the fastest counts


class Unusable(Exception):
    """Raised by a way of computing gradients that cannot be used; its text is the reason."""


@dataclass(frozen=True)
class Trial:
    """Two ways to compute the gradients of a step, plain and other. Each starts from where the runs stand now."""

    runs: Sequence["TrainState"]
    leaves: Sequence[Tensor]  # whose gradients are computed
    plain: Callable[[], Tensor]  # returns the losses; the gradients stand at the leaves
    other: Callable[[], Tensor]
    steps: int  # that are left
    warm: int = 0  # calls that the other way needs first, such as those before a capture
    preparation: str = ""  # name of what the other way's first call does, where the steps that are left must earn it
    least: float = 0.0  # seconds that the plain way must have left; with less there is nothing to gain

    def decide(self) -> Decision | None:
        """Choose the other way where it gives the same, is clearly faster and earns its preparation.

        None where less than `least` seconds are left. What the plain way raises is raised; what the other way raises
        is a reason against it.
        """
        device = self.runs[0].device
        with untouched(self.runs):
            losses, plain = timed(self.plain, device)
            expected = Answer.of(losses, self.leaves)
            if plain * self.steps >= self.least:  # the first call is slower: where it promises little, others do too
                plain = fastest(self.plain, device)
        if plain * self.steps < self.least:
            return None
        try:
            return self._against(plain, expected)
        except Unusable as error:
            return Decision(False, str(error))
        except Exception as error:  # a compiler's, in its many kinds
            memory.free(device)
            return Decision(False, type_and_line(error))

    def _against(self, plain: float, expected: "Answer") -> Decision:
        run = self.runs[0]
        with untouched(self.runs):
            for _ in range(self.warm):
                self.other()
        with untouched(self.runs):
            losses, first = timed(self.other, run.device)
            if difference := Answer.of(losses, self.leaves).differs(expected, run.precision):
                return Decision(False, difference)
            other = fastest(self.other, run.device)
        price = f", and {self.preparation} {first:.0f} s," if self.preparation else ""
        reason = f"gradients of a step take {1e3 * other:.3g} ms{price} against {1e3 * plain:.3g} ms"
        earned = not self.preparation or (plain - other) * self.steps >= first
        return Decision(is_faster(other, plain) and earned, reason)


def is_faster(other: float, plain: float) -> bool:
    """Return whether another way is clearly faster than the plain one, by the seconds of a step."""
    return plain >= GAIN * other


@contextlib.contextmanager
def untouched(runs: Sequence["TrainState"]) -> Iterator[None]:
    """Restore what gradients that are computed inside change: running statistics, batches that were begun, what is
    drawn next, what was counted. The gradients themselves are deleted."""
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
def aside(runs: Sequence["TrainState"]) -> Iterator[list[Meter]]:
    """Give runs other meters inside: these."""
    before, meters = [run.meter for run in runs], [Meter() for _ in runs]
    try:
        for run, meter in zip(runs, meters):
            run.meter = meter
        yield meters
    finally:
        for run, meter in zip(runs, before):
            run.meter = meter


def fastest(work: Callable[[], Any], device: torch.device, looks: int = LOOKS) -> float:
    """Return the seconds of the fastest of so many calls, after one to warm up."""
    if device.type == "cpu" and torch.get_num_threads() == 1:  # whatever else this machine does
        return min([_cpu_seconds(work) for _ in range(looks + 1)][1:])
    return min([timed(work, device)[1] for _ in range(looks + 1)][1:])


def _cpu_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


@dataclass(frozen=True)
class Answer:
    """Losses and gradients of a step."""

    losses: Tensor
    gradients: list[Tensor | None]

    @classmethod
    def of(cls, losses: Tensor, leaves: Sequence[Tensor]) -> "Answer":
        """Copy the losses, and the gradients that stand at the leaves now."""
        return cls(losses.clone(), [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves])

    def differs(self, expected: "Answer", precision: torch.dtype) -> str:
        """Return how far this is from another answer, in words; empty where they agree."""
        losses = distance([self.losses], [expected.losses])
        gradients = distance(self.gradients, expected.gradients)
        if losses <= TOLERANCE[precision] and gradients <= TOLERANCE[precision]:  # false for a NaN
            return ""
        return f"losses are {losses:.1g} off, gradients {gradients:.1g}"
