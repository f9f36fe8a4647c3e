"""Below a function with reserved frames no call opens a piece of memory for its frame."""

import time

import pytest

from runner.core.startup.frames import reserve_frames
from tests.shared.marks import quick

pytestmark = quick


def leaf(x):
    return x


def middle(x):
    return leaf(x)


def loop():
    """Seconds of 100 calls, the best of three times: noise only adds."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(100):
            middle(1)
        found.append(time.perf_counter() - start)
    return min(found)


def at(depth, function):
    return function() if depth == 0 else at(depth - 1, function)


def worst(function):
    """By how much a loop is slower at the worst of the depths that a piece of frames has."""
    found = sorted(at(depth, function) for depth in range(300))
    return found[-1] / found[len(found) // 2]


def test_loops_are_quick_at_any_depth():
    """Where a piece ends, calls are a hundred times slower; not so below a function with reserved frames."""
    if worst(loop) < 20:
        pytest.skip("this Python keeps frames otherwise")
    assert worst(reserve_frames(loop)) < 10


def test_a_function_with_reserved_frames_is_the_function():
    """Arguments, answers, errors and names pass through."""

    @reserve_frames
    def shown(a, *b, c=1, **d):
        """Words."""
        if c == 0:
            raise KeyError("no")
        return a, b, c, d

    assert shown(1, 2, 3, c=4, e=5) == (1, (2, 3), 4, {"e": 5})
    assert shown.__name__ == "shown" and shown.__doc__ == "Words."
    with pytest.raises(KeyError, match="no"):
        shown(1, c=0)
