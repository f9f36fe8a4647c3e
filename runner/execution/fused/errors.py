"""Errors of runs that share a program."""

from collections.abc import Callable
from typing import Any

from runner.core import memory
from runner.train.state import TrainState


class Incompatible(Exception):
    """Raised if runs cannot share a program; its text is the reason."""


class MemberFailed(Exception):
    """Raised for an error in one run's part of a step, before any update: the other runs can repeat the step."""

    def __init__(self, run: TrainState, error: Exception):
        super().__init__(str(error))
        self.run, self.error = run, error


def call_for(run: TrainState, part: Callable[..., Any], *args: Any) -> Any:
    """Call one run's part of a step. Raises `MemberFailed` for its errors, except for lack of memory."""
    try:
        return part(*args)
    except Exception as error:
        if memory.is_out_of_memory(error):
            raise
        raise MemberFailed(run, error) from error
