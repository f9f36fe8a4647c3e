"""The phases of a job: open it, train its runs, finish it."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from runner.train.state import TrainState

T = TypeVar("T")


class Trainable:
    """Base of objects that a task yields when its runs are ready to train."""

    runs: list[TrainState]  # several for some ensembles
    ended_by: BaseException | None = None  # error that ended the training early; the task raises it when it continues

    def train(self) -> None:
        """Train the runs to their ends, without runs of other jobs."""
        raise NotImplementedError

    def raise_end(self) -> None:
        """Raise the error that ended the training early, if there is one."""
        error, self.ended_by = self.ended_by, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame and would keep the runs in memory


@dataclass
class ReadyJob:
    """Runs that are ready to train, and the process settings of their job."""

    training: Trainable
    contexts: list[Callable[[], contextlib.AbstractContextManager]]  # outermost first
    logging: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # directs log lines to its log

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Apply the job's process settings inside: number of threads, environment, log."""
        with contextlib.ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            yield

    def train(self) -> None:
        """Train the runs without runs of other jobs; keep the error of an early end."""
        try:
            with self.active():
                self.training.train()
        except BaseException as error:
            self.training.ended_by = error


Result = dict[str, Any]
TaskParts = Generator[Result | Trainable, None, None]
Phases = Generator[ReadyJob, None, Result]  # of a job; the caller trains each `ReadyJob`


def carry_out(phases: Generator[ReadyJob, None, T]) -> T:
    """Run the phases of a job, train its runs without runs of other jobs, and return its result."""
    while True:
        try:
            ready = next(phases)
        except StopIteration as end:
            return end.value
        ready.train()
        del ready  # free its memory before the next phase
