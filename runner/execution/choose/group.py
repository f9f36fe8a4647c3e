"""Training of several jobs in one process: as one program if that is faster, else one by one."""

import logging
from collections.abc import Sequence
from pathlib import Path

from runner.core import interruption
from runner.execution.choose.cuda_graph import choose_graph
from runner.execution.choose.fused import choose_fused
from runner.execution.choose.lone import train_alone
from runner.execution.decision import Decision, Decisions
from runner.execution.fused.errors import Incompatible, MemberFailed
from runner.execution.fused.program import FusedProgram
from runner.train.loop import train
from runner.train.program import OnFailure
from runner.train.state import TrainState

log = logging.getLogger(__name__)


def train_group(jobs: Sequence[list[TrainState]], key: str, folder: Path, must: bool) -> dict[int, Exception]:
    """Train the runs of jobs to their ends, or until a signal asks the process to end.

    key: of the program that they may share. folder: of the sweep, which keeps the decision.
    must: share a program without a trial. Returns the errors that ended jobs, by index in `jobs`; other jobs continued.
    """
    numbers = {id(run): number for number, runs in enumerate(jobs) for run in runs}
    errors: dict[int, Exception] = {}

    def on_failure(run: TrainState, error: Exception) -> None:
        number = numbers[id(run)]
        errors[number] = error
        for member in jobs[number]:
            member.dropped = True

    going = [run for runs in jobs for run in runs if not run.ended]
    for run in going:
        run.restart_clock()  # discards the time in which other runs were built
    with interruption.deferred():  # because runs must be unstacked before any of them is saved
        if (program := _choose_program(going, key, folder, must)) is not None:
            _train_fused(going, program, on_failure)
        for runs in jobs:  # runs that share no program, or no longer
            try:
                for run in runs:
                    run.restart_clock()
                train_alone(runs, folder, on_failure)
            except Exception as error:
                on_failure(runs[0], error)
    return errors


def _choose_program(runs: list[TrainState], key: str, folder: Path, must: bool) -> FusedProgram | None:
    """Return the program that runs share; None if they train one by one."""
    if not runs:
        return None
    decisions = Decisions(folder, "fuse")
    decision = decisions.load(key)
    if must and decision is not None and not decision.on:  # ignore an earlier trial's decision
        decision = None
    program = None
    if decision is None:
        own_decision, program = choose_fused(runs, must)
        decision = decisions.save(key, own_decision, must)
        if program is not None and not decision.on:
            program.unstack()
            program = None
    if decision.on and program is None:
        try:
            program = FusedProgram(runs)
        except Incompatible as error:
            decision = Decision(False, str(error))
    way = "as one program" if decision.on else "one by one"
    log.info("%d runs train %s: %s", len(runs), way, decision.reason)
    if program is not None:
        choose_graph(runs, program)
    return program


def _train_fused(runs: list[TrainState], program: FusedProgram, on_failure: OnFailure) -> None:
    for run in runs:
        run.fused = len(runs)
    program.on_failure = on_failure
    try:
        while not all(run.ended for run in runs) and not interruption.pending():
            try:
                train(runs, program, on_failure)
            except MemberFailed as failure:
                program.undo()
                on_failure(failure.run, failure.error)
    except Exception as error:  # of the shared part; training one by one shows whose fault it is
        log.warning("the runs of this program go on one by one: %s: %s", type(error).__name__, error)
        program.undo()
    finally:
        program.unstack()
