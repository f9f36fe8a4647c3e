"""Schedules of cycles, the last of which ends with the run."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import ClassVar

from runner.core.errors import ConfigError
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule

ROUNDING = 1e-9  # of sums of lengths, relative


class Cycles(Schedule):
    """Schedule of cycles of given lengths in steps; subclasses write `cycle`.

    The last cycle ends with the run. A rest of at least half a cycle is a shorter cycle; a smaller one lengthens the
    cycle before it, so that no cycle is cut off where its rate is high.

    fewest: steps that the last cycle needs, for its rate to fall.
    """

    fewest: ClassVar[int]

    def __init__(self, timeline: Timeline, warmup: Duration, floor: float):
        super().__init__(timeline, warmup, floor)
        self.ends: list[int] = []  # a cycle ends after so many steps of the run

    def divide(self, words: str, lengths: Iterable[float]) -> None:
        """Set the ends of cycles. Raises `ConfigError`, beginning with `words`, where the run is too short for one."""
        steps = self.timeline.steps
        ends, position = [self.warmup_steps], float(self.warmup_steps)
        for length in lengths:
            is_short = steps - position < length / 2 * (1 - ROUNDING) or steps - ends[-1] < self.fewest
            if is_short and len(ends) == 1:
                raise ConfigError(
                    f"{words}: a cycle of {length:g} steps, and this run has {steps - ends[0]} after warm-up; make "
                    f"cycles shorter, or the run longer ({self.fewest} steps at least)"
                )
            if is_short:
                break
            position += length
            ends.append(math.floor(position + 0.5))
            if ends[-1] >= steps:
                break
        self.ends = [*ends[1:-1], steps]

    def decay(self, step: int) -> float:
        number = min(bisect_right(self.ends, step), len(self.ends) - 1)
        start = self.ends[number - 1] if number else self.warmup_steps
        return self.cycle(number, step - start, self.ends[number] - start)

    def cycle(self, number: int, step: int, length: int) -> float:
        """Return the multiplier at a step of cycle 0, 1, ..., which has `length` steps."""
        raise NotImplementedError

    def cycles(self) -> list[int]:
        return list(self.ends)
