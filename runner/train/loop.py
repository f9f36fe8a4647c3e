"""The loop. It trains a list of runs; one run is the list of length one.

What a step does stands in `runner.train.state.Run`. Only the `Program` differs between a lone run and runs that share
one.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from runner.core import interruption
from runner.core.startup.frames import roomy
from runner.evaluation.evaluate import Measured
from runner.execution.cuda_graph.capture import Capture
from runner.execution.cuda_graph.replay import Replays
from runner.train.batch import Batch
from runner.train.state import Run


class Objective:
    """The loss of one step, as its optimizer sees it; called, it is torch's closure.

    The program was asked already when the step began: the first call returns what it found.
    """

    def __init__(self, run: Run, batch: Batch, loss: Tensor, program: "Program"):
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

    def due(self, runs: list[Run]) -> list[Run]:
        """Those of the runs that take the next step; the others wait for them."""
        return runs

    def batches(self, runs: list[Run]) -> list[Batch]:
        """A batch of each run."""
        return [run.next_batch() for run in runs]

    def gradients(self, runs: list[Run], batches: list[Batch]) -> list[Tensor]:
        """The loss of each run on its batch; its gradients stand."""
        raise NotImplementedError

    def replay(self, runs: list[Run], capture: Capture, must: bool) -> list[Replays]:
        """From now on the gradients are replayed, of each of these by itself. `must`: what cannot be is an error."""
        raise NotImplementedError

    def update(self, runs: list[Run], objectives: list[Objective]) -> None:
        """The optimizers' steps, from gradients that stand."""
        for run, objective in zip(runs, objectives):
            run.update(objective)

    def measure(self, runs: list[Run]) -> dict[int, Measured]:
        """By id, what was found of those of the runs whose validation this program does in one pass."""
        return {}

    def can_stop(self, runs: list[Run]) -> bool:
        """Return whether an interrupted loop may end here, between two steps, so that the runs can be saved."""
        return True


class Alone(Program):
    """Each run by a program of its own, micro-batch by micro-batch."""

    def gradients(self, runs: list[Run], batches: list[Batch]) -> list[Tensor]:
        return [
            gradients(run, batch) if run.replays is None or batch.again else run.replays([batch])
            for run, batch in zip(runs, batches)
        ]

    def replay(self, runs: list[Run], capture: Capture, must: bool) -> list[Replays]:
        for run in runs:
            held = [*run.model.parameters(), *run.model.buffers()]
            run.replays = Replays([run], run.trained, held, functools.partial(_gradients, run), capture, must)
        return [run.replays for run in runs]


def _gradients(run: Run, batches: list[Batch]) -> Tensor:
    return gradients(run, batches[0])


def gradients(run: Run, batch: Batch) -> Tensor:
    """The loss of a lone run on its batch; its gradients stand."""
    run.optimizer.zero_grad()
    total = None
    for part in batch.split(run.accumulate):
        loss = run.loss(part)
        run.backward(loss)
        total = loss.detach() if total is None else total + loss.detach()
    return total


Leave = Callable[[Run, Exception], None]


@roomy
def train(runs: list[Run], program: Program | None = None, leave: Leave | None = None) -> None:
    """Trains all runs to their ends, side by side; or to the step at which a signal asked the process to end.

    Raises `Diverged`, and what listeners raise: unless there is somebody to `leave` to, who is told of the run and the
    error, and the others go on.
    """
    program = program or Alone()
    for run in runs:
        run.train_mode()
    with interruption.deferred():
        _loop(runs, program, leave)


def _loop(runs: list[Run], program: Program, leave: Leave | None) -> None:
    active: list[Run] = []
    while not interruption.pending() or not program.can_stop(active):
        going = program.due([run for run in runs if not run.ended])
        if going != active:
            for run in going:
                if active and run not in active:  # it waited, and that was not its time
                    run.wait()
            for run in (*active, *going):
                run.share_time(max(1, len(going)))
            active = going
        if not active:
            return
        step(active, program, leave)


def step(runs: list[Run], program: Program, leave: Leave | None = None) -> None:
    """A step of each run."""
    move(runs, program)
    _each(runs, leave, Run.after_update)
    measured = program.measure([run for run in runs if run.validates and not run.left])
    _each(runs, leave, lambda run: run.look(measured.get(id(run))))
    _each(runs, leave, Run.pause)


def _each(runs: list[Run], leave: Leave | None, part: Callable[[Run], None]) -> None:
    """A part of the step that is each run's alone."""
    for run in runs:
        if run.left:
            continue
        try:
            part(run)
        except Exception as error:
            if leave is None:
                raise
            leave(run, error)


def move(runs: list[Run], program: Program) -> None:
    """The part of a step that moves the weights; nothing is counted, and nobody is told."""
    batches = program.batches(runs)
    losses = program.gradients(runs, batches)
    objectives = [Objective(run, batch, loss, program) for run, batch, loss in zip(runs, batches, losses)]
    for run, loss in zip(runs, losses):
        run.before_update(loss)
    program.update(runs, objectives)
