"""Base of cyclic schedules. The last cycle ends with the run."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import ClassVar

from runner.core.errors import ConfigError
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule

ROUNDING = 1e-9  # relative tolerance for sums of lengths


class Cycles(Schedule):
    """Schedule of cycles with lengths in steps. Subclasses implement `cycle`.

    The last cycle ends with the run, so that the run does not end at a high rate. A remainder of at least half a cycle
    becomes a shorter cycle; a smaller remainder lengthens the cycle before it.

    fewest: minimum steps of the last cycle, so that its rate can fall.
    """

    fewest: ClassVar[int]

    def __init__(self, timeline: Timeline, warmup: Duration, floor: float):
        super().__init__(timeline, warmup, floor)
        self.ends: list[int] = []  # step counts at which the cycles end

    def divide(self, key: str, lengths: Iterable[float]) -> None:
        """Set the ends of the cycles. Raises ConfigError, prefixed by `key`, if the run is too short for one."""
        steps = self.timeline.steps
        ends, position = [self.warmup_steps], float(self.warmup_steps)
        for length in lengths:
            is_short = steps - position < length / 2 * (1 - ROUNDING) or steps - ends[-1] < self.fewest
            if is_short and len(ends) == 1:
                raise ConfigError(
                    f"{key}: a cycle of {length:g} steps, and this run has {steps - ends[0]} after warm-up; make "
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
