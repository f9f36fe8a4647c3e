"""What goes wrong where runs share a program."""

from collections.abc import Callable
from typing import Any

from runner.core import memory
from runner.train.state import TrainState


class Incompatible(Exception):
    """Runs cannot share a program, and why."""


class MemberFailed(Exception):
    """What one run's own part of a step raised, before anything moved: the others can do the step without it."""

    def __init__(self, run: TrainState, error: Exception):
        super().__init__(str(error))
        self.run, self.error = run, error


def by(run: TrainState, part: Callable[..., Any], *given: Any) -> Any:
    """A part of the step that is this run's alone. Raises `MemberFailed` for what it raises, but for want of memory."""
    try:
        return part(*given)
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise
        raise MemberFailed(run, error) from error
