"""Room for the frames of what a function calls.

CPython (3.11 and newer) keeps the frames of a thread in pieces of 16 KB. It asks the system for a further one where a
call does not fit into the last, and gives it back as soon as that call returns: a loop whose calls happen to lie across
an end of a piece takes microseconds for each, in place of a tenth of one. A frame that needs more opens a piece of
twice its size and more, up to which those above it have room.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from runner.core.startup import is_plain

P, R = ParamSpec("P"), TypeVar("R")

SLOTS = 1 << 15  # of 8 bytes: as much room again for some 800 frames above it


def roomy(function: Callable[P, R]) -> Callable[P, R]:
    """The function, below which a thread's frames have room in one piece."""
    if is_plain():
        return function

    def called(*given: P.args, **named: P.kwargs) -> R:
        return function(*given, **named)

    called.__code__ = called.__code__.replace(co_stacksize=SLOTS)
    return functools.update_wrapper(called, function)
