"""Program: computes the batches, gradients and updates of the runs in a loop."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from runner.evaluation.metrics import EvaluationResult
from runner.train.batch import Batch
from runner.train.protocols import Capture, Gradients
from runner.train.state import TrainState

OnFailure = Callable[[TrainState, Exception], None]


class Objective:
    """The loss of one step as its optimizer evaluates it; calling it acts as torch's closure.

    The program has computed loss and gradients when the step began: the first call returns that loss.
    """

    def __init__(self, run: TrainState, batch: Batch, loss: Tensor, program: "Program"):
        self._run, self._batch, self._ready, self._program = run, batch, [loss], program

    def __call__(self) -> Tensor:
        """Return the loss; the parameters' `grad` is set, and clipped if the run clips."""
        if self._ready:
            loss = self._ready.pop()
        else:
            (loss,) = self._program.gradients([self._run], [replace(self._batch, repeated=True)])
        self._run.clip_gradients()
        return loss

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return the loss without gradients, for line searches."""
        return sum(self.pieces())

    def pieces(self) -> Iterator[Tensor]:
        """Yield the losses of the micro-batches with their graphs, for second derivatives; they add up to the loss."""
        for part in replace(self._batch, repeated=True).split(self._run.accumulate):
            yield self._run.loss(part)


class Program:
    """Base of programs: a program computes batches, gradients and updates of runs."""

    def due(self, runs: list[TrainState]) -> list[TrainState]:
        """Return the runs that take the next step; the others wait for them."""
        return runs

    def batches(self, runs: list[TrainState]) -> list[Batch]:
        """Return a batch for each run."""
        return [run.next_batch() for run in runs]

    def gradients(self, runs: list[TrainState], batches: list[Batch]) -> list[Tensor]:
        """Return the loss of each run on its batch and set its gradients."""
        raise NotImplementedError

    def replay(self, runs: list[TrainState], capture: Capture, must: bool) -> Sequence[Gradients]:
        """Replay captured gradients from the next step on and return them. `must`: raise if capture is impossible."""
        raise NotImplementedError

    def update(self, runs: list[TrainState], objectives: list[Objective]) -> None:
        """Take the optimizers' steps with the gradients that are set."""
        for run, objective in zip(runs, objectives):
            run.update(objective)

    def measure(self, runs: list[TrainState]) -> dict[int, EvaluationResult]:
        """Return validation results by `id(run)`, of those runs that this program validates in one pass."""
        return {}

    def can_stop(self, runs: list[TrainState]) -> bool:
        """Return whether an interrupted loop may end here, between two steps, with the runs in a state to save."""
        return True
