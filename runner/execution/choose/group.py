"""Several jobs of one process, trained side by side.

Each job is done as if it were alone, up to the moment in which it would train: there it waits inside for the next one
to come as far. The last one trains all; then each goes on to its own end.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from runner.core import interruption
from runner.execution.choose.cuda_graph import choose_graph
from runner.execution.choose.fused import choose_fused
from runner.execution.choose.lone import train_alone
from runner.execution.decision import Decision, Decisions
from runner.execution.fused.errors import Blamed, Unlike
from runner.execution.fused.program import Fused
from runner.train.loop import train
from runner.train.program import Leave
from runner.train.slot import Seat
from runner.train.state import Run

log = logging.getLogger(__name__)

TOLD = ("on_log", "on_epoch", "on_pause")


class Trained(Protocol):
    """A job that is ready to train."""

    runs: list[Run]  # several of an ensemble


class Group:
    """`key`: of the program that its runs may share; `folder`: of the sweep, where it stands whether that pays; `must`:
    whether it pays or not; `coming`: brings the next job here, and says whether there was one.

    `seat`: of the job that comes next, its place in the program.
    """

    def __init__(self, key: str, folder: Path, must: bool, coming: Callable[[], bool]):
        self._key, self._folder, self._must, self._coming = key, folder, must, coming
        self.seat = Seat(0, 1)  # of the job that comes next
        self._waiting: list[Trained] = []
        self._errors: dict[int, Exception] = {}  # by id of the run that it ended

    def train(self, training: Trained) -> None:
        """Trains a job's runs, with those of the jobs that are still to come. Raises what the job's own part raised."""
        self._waiting.append(training)
        with _own_log(training.runs):
            while training in self._waiting and self._coming():
                pass
            if training in self._waiting:
                waiting, self._waiting = self._waiting, []
                with interruption.deferred():  # what runs share is given back to each before any of them is saved
                    self._all(waiting)
        for run in training.runs:
            run.wait()
            if (error := self._errors.pop(id(run), None)) is not None:
                try:
                    raise error
                finally:
                    del error  # whose traceback holds this frame: all that it has would stay

    def _all(self, waiting: list[Trained]) -> None:
        mates = {id(run): one.runs for one in waiting for run in one.runs}

        def leave(run: Run, error: Exception) -> None:
            self._errors[id(run)] = error
            for mate in mates[id(run)]:
                mate.left = True

        runs = [run for one in waiting for run in one.runs if not run.ended]
        for run in runs:
            run.wait()  # the time in which others were built
        if (program := self._program(runs)) is not None:
            self._together(runs, program, leave)
        for one in waiting:  # those that share no program, or no longer
            try:
                for run in one.runs:
                    run.wait()
                train_alone(one.runs, self._folder, leave)
            except Exception as error:
                leave(one.runs[0], error)

    def _program(self, runs: list[Run]) -> Fused | None:
        """The one that these runs share; None where each has its own."""
        if not runs:
            return None
        decisions = Decisions(self._folder, "fuse")
        decision = decisions.load(self._key)
        if self._must and decision is not None and not decision.on:  # a trial's word is not asked for
            decision = None
        program = None
        if decision is None:
            own, program = choose_fused(runs, self._must)
            decision = decisions.save(self._key, own, self._must)
            if program is not None and not decision.on:
                program.part()
                program = None
        if decision.on and program is None:
            try:
                program = Fused(runs)
            except Unlike as error:
                decision = Decision(False, str(error))
        way = "as one program" if decision.on else "one by one"
        log.info("%d runs train %s: %s", len(runs), way, decision.reason)
        if program is not None:
            choose_graph(runs, program)
        return program

    def _together(self, runs: list[Run], program: Fused, leave: Leave) -> None:
        for run in runs:
            run.fused = len(runs)
        program.leave = leave
        try:
            while not all(run.ended for run in runs) and not interruption.pending():
                try:
                    train(runs, program, leave)
                except Blamed as end:
                    program.undo()
                    leave(end.run, end.error)
        except Exception as error:  # of nobody's own part: each that goes on alone will show whose it was
            log.warning("the runs of this program go on one by one: %s: %s", type(error).__name__, error)
            program.undo()
        finally:
            program.part()


@contextlib.contextmanager
def _own_log(runs: list[Run]) -> Iterator[None]:
    """What a job's listeners are told while another one trains it is written to the job's own log."""
    root = logging.getLogger()
    mine = list(root.handlers)

    def routed(tell: Callable[..., None], *what: Any) -> None:
        before, root.handlers = root.handlers, mine
        try:
            tell(*what)
        finally:
            root.handlers = before

    for run in runs:
        for name in TOLD:
            setattr(run, name, functools.partial(routed, getattr(run, name)))
    try:
        yield
    finally:
        root.handlers = mine
