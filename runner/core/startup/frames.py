"""Decorator that reserves memory for the Python frames above a function's own.

CPython (3.11 and newer) keeps a thread's frames in chunks of 16 KB. Where a call does not fit into the last chunk, it
allocates another, and frees it as soon as that call returns. A loop whose calls cross the end of a chunk takes
microseconds a call, in place of a tenth of one. A frame larger than a chunk gets one of at least twice its size, where
the frames above it have room.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from runner.core.startup import is_plain

P, R = ParamSpec("P"), TypeVar("R")

SLOTS = 1 << 15  # of 8 bytes each; its chunk has as much room again, for some 800 frames above it


def reserve_frames(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that does the same, with room for the frames of its calls in one chunk."""
    if is_plain():
        return function

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    wrapper.__code__ = wrapper.__code__.replace(co_stacksize=SLOTS)
    return functools.update_wrapper(wrapper, function)
