"""The loop. It trains a list of runs; one run is the list of length one.

What a step does stands in `runner.train.state.TrainState`. Only the `Program` differs between a lone run and runs that
share one.
"""

from collections.abc import Callable

from runner.core import interruption
from runner.core.startup.frames import roomy
from runner.train.program import Leave, Objective, Program
from runner.train.state import TrainState


@roomy
def train(runs: list[TrainState], program: Program, leave: Leave | None = None) -> None:
    """Trains all runs to their ends, side by side; or to the step at which a signal asked the process to end.

    Raises `Diverged`, and what listeners raise: unless there is somebody to `leave` to, who is told of the run and the
    error, and the others go on.
    """
    for run in runs:
        run.train_mode()
    with interruption.deferred():
        _loop(runs, program, leave)


def _loop(runs: list[TrainState], program: Program, leave: Leave | None) -> None:
    active: list[TrainState] = []
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
    for run in active:  # which a signal stops: their time so far counts
        run.share_time(1)


def step(runs: list[TrainState], program: Program, leave: Leave | None = None) -> None:
    """A step of each run."""
    move(runs, program)
    _each(runs, leave, TrainState.after_update)
    measured = program.measure([run for run in runs if run.validates and not run.left])
    _each(runs, leave, lambda run: run.look(measured.get(id(run))))
    _each(runs, leave, TrainState.pause)


def _each(runs: list[TrainState], leave: Leave | None, part: Callable[[TrainState], None]) -> None:
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


def move(runs: list[TrainState], program: Program) -> None:
    """The part of a step that moves the weights; nothing is counted, and nobody is told."""
    batches = program.batches(runs)
    losses = program.gradients(runs, batches)
    objectives = [Objective(run, batch, loss, program) for run, batch, loss in zip(runs, batches, losses)]
    for run, loss in zip(runs, losses):
        run.before_update(loss)
    program.update(runs, objectives)
