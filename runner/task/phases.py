"""The phases of a job: it is opened, its runs are trained, it is finished."""

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from runner.train.state import TrainState

T = TypeVar("T")


class Trainable:
    """What a task yields when its runs are ready to train."""

    runs: list[TrainState]  # several of an ensemble
    ended_by: BaseException | None = None  # what ended their training early; raised by the task when it goes on

    def train(self) -> None:
        """Train them to their ends, by themselves."""
        raise NotImplementedError

    def raise_end(self) -> None:
        """Raise what ended the training early, if anything did."""
        error, self.ended_by = self.ended_by, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # whose traceback holds this frame: all that it has would stay in memory


@dataclass
class ReadyJob:
    """Runs that are ready to train, and what their job has of the process meanwhile."""

    training: Trainable
    contexts: list[Callable[[], contextlib.AbstractContextManager]]  # the outermost first
    logging: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # in which its log is written to

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the process is the job's: its number of threads, its environment, its log."""
        with contextlib.ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            yield

    def train(self) -> None:
        """Train the runs by themselves; what ends that early is noted."""
        try:
            with self.active():
                self.training.train()
        except BaseException as error:
            self.training.ended_by = error


Result = dict[str, Any]
TaskParts = Generator[Result | Trainable, None, None]
Phases = Generator[ReadyJob, None, Result]  # of a job, whose caller trains what is ready


def carry_out(phases: Generator[ReadyJob, None, T]) -> T:
    """Go through the phases of a job, training its runs by themselves; return its result."""
    while True:
        try:
            ready = next(phases)
        except StopIteration as end:
            return end.value
        ready.train()
        del ready  # what it has is freed with its last user
