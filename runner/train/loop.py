"""The training loop. It trains a list of runs; a single run is a list of length one.

`runner.train.state.TrainState` defines what a step does. Only the `Program` differs between a single run and runs that
share one.
"""

from collections.abc import Callable

from runner.core import interruption
from runner.train.program import Objective, OnFailure, Program
from runner.train.state import TrainState


def train(runs: list[TrainState], program: Program, on_failure: OnFailure | None = None) -> None:
    """Train all runs to their ends, side by side, or until a signal asks the process to end.

    on_failure: called with a run and its error; the other runs continue. Without it, `Diverged` and errors of listeners
        are raised.
    """
    for run in runs:
        run.train_mode()
    with interruption.deferred():
        _loop(runs, program, on_failure)


def _loop(runs: list[TrainState], program: Program, on_failure: OnFailure | None) -> None:
    active: list[TrainState] = []
    while not interruption.pending() or not program.can_stop(active):
        going = program.due([run for run in runs if not run.ended])
        if going != active:
            for run in going:
                if active and run not in active:  # it was waiting: that time is not its own
                    run.restart_clock()
            for run in (*active, *going):
                run.share_time(max(1, len(going)))
            active = going
        if not active:
            return
        step(active, program, on_failure)
    for run in active:  # stopped by a signal: count their time so far
        run.share_time(1)


def step(runs: list[TrainState], program: Program, on_failure: OnFailure | None = None) -> None:
    """Do one step of each run."""
    move(runs, program)
    _each(runs, on_failure, TrainState.after_update)
    measured = program.measure([run for run in runs if run.validates and not run.dropped])
    _each(runs, on_failure, lambda run: run.log_and_validate(measured.get(id(run))))
    _each(runs, on_failure, TrainState.pause)


def _each(runs: list[TrainState], on_failure: OnFailure | None, part: Callable[[TrainState], None]) -> None:
    """Do one part of the step run by run."""
    for run in runs:
        if run.dropped:
            continue
        try:
            part(run)
        except Exception as error:
            if on_failure is None:
                raise
            on_failure(run, error)


def move(runs: list[TrainState], program: Program) -> None:
    """Update the weights of each run; the step counter does not advance and no callback runs."""
    batches = program.batches(runs)
    losses = program.gradients(runs, batches)
    objectives = [Objective(run, batch, loss, program) for run, batch, loss in zip(runs, batches, losses)]
    for run, loss in zip(runs, losses):
        run.before_update(loss)
    program.update(runs, objectives)
