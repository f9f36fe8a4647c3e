"""Several jobs of one process, trained side by side: as one program where that pays."""

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
    """Train the runs of jobs to their ends, or to where a signal asked for an end.

    key: of the program that they may share. folder: of the sweep, where it stands whether that pays.
    must: whether it pays or not. Returns what ended a job early, by its place in `jobs`; the others went on.
    """
    numbers = {id(run): number for number, runs in enumerate(jobs) for run in runs}
    errors: dict[int, Exception] = {}

    def on_failure(run: TrainState, error: Exception) -> None:
        number = numbers[id(run)]
        errors[number] = error
        for mate in jobs[number]:
            mate.dropped = True

    going = [run for runs in jobs for run in runs if not run.ended]
    for run in going:
        run.restart_clock()  # the time in which others were built
    with interruption.deferred():  # what runs share is given back to each before any of them is saved
        if (program := _program(going, key, folder, must)) is not None:
            _together(going, program, on_failure)
        for runs in jobs:  # those that share no program, or no longer
            try:
                for run in runs:
                    run.restart_clock()
                train_alone(runs, folder, on_failure)
            except Exception as error:
                on_failure(runs[0], error)
    return errors


def _program(runs: list[TrainState], key: str, folder: Path, must: bool) -> FusedProgram | None:
    """The one that these runs share; None where each has its own."""
    if not runs:
        return None
    decisions = Decisions(folder, "fuse")
    decision = decisions.load(key)
    if must and decision is not None and not decision.on:  # a trial's word is not asked for
        decision = None
    program = None
    if decision is None:
        own, program = choose_fused(runs, must)
        decision = decisions.save(key, own, must)
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


def _together(runs: list[TrainState], program: FusedProgram, on_failure: OnFailure) -> None:
    for run in runs:
        run.fused = len(runs)
    program.on_failure = on_failure
    try:
        while not all(run.ended for run in runs) and not interruption.pending():
            try:
                train(runs, program, on_failure)
            except MemberFailed as end:
                program.undo()
                on_failure(end.run, end.error)
    except Exception as error:  # of nobody's own part: each that goes on alone will show whose it was
        log.warning("the runs of this program go on one by one: %s: %s", type(error).__name__, error)
        program.undo()
    finally:
        program.unstack()
