"""Inverse square root decay (Vaswani et al. 2017, section 5.3)."""

import math

from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class InverseSqrt(Schedule):
    """Decay `1 / sqrt(1 + t / every)`, with t since the end of warm-up.

    This is Vaswani's `sqrt(warmup / step)` if `every` equals the warm-up.

    every: the time until the rate has fallen to 0.71, in epochs or a share.
    """

    def __init__(
        self,
        timeline: Timeline,
        every: Duration = "5%",
        warmup: Duration = "5%",
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.period = timeline.period("schedule.every", every)

    def decay(self, step: int) -> float:
        return 1 / math.sqrt(1 + self.after_warmup(step) / self.period)
