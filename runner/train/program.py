"""How the runs of a loop get their batches and gradients, and take their steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from runner.evaluation.metrics import EvaluationResult
from runner.train.batch import Batch
from runner.train.protocols import Capture, Gradients
from runner.train.state import TrainState

Leave = Callable[[TrainState, Exception], None]


class Objective:
    """The loss of one step, as its optimizer sees it; called, it is torch's closure.

    The program was asked already when the step began: the first call returns what it found.
    """

    def __init__(self, run: TrainState, batch: Batch, loss: Tensor, program: "Program"):
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


class Program:
    """How the runs of a loop get their batches and gradients, and take their steps."""

    def due(self, runs: list[TrainState]) -> list[TrainState]:
        """Those of the runs that take the next step; the others wait for them."""
        return runs

    def batches(self, runs: list[TrainState]) -> list[Batch]:
        """A batch of each run."""
        return [run.next_batch() for run in runs]

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        """The loss of each run on its batch; its gradients stand."""
        raise NotImplementedError

    def replay(self, runs: list[TrainState], capture: Capture, must: bool) -> Sequence[Gradients]:
        """From now on the gradients are replayed, of each of these by itself. `must`: what cannot be is an error."""
        raise NotImplementedError

    def update(self, runs: list[TrainState], objectives: list[Objective]) -> None:
        """The optimizers' steps, from gradients that stand."""
        for run, objective in zip(runs, objectives):
            run.update(objective)

    def measure(self, runs: list[TrainState]) -> dict[int, EvaluationResult]:
        """By id, what was found of those of the runs whose validation this program does in one pass."""
        return {}

    def can_stop(self, runs: list[TrainState]) -> bool:
        """Return whether an interrupted loop may end here, between two steps, so that the runs can be saved."""
        return True
