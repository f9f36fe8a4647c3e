"""Inverse time decay: 1 / (1 + k t), as in Robbins & Monro 1951."""

from runner.core.schema import Rate
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class InverseTime(Schedule):
    """Decay `1 / (1 + k * t / every)`, with t since the end of warm-up. With `every=1`, k is per epoch.

    every: the unit of time, in epochs or a share.
    """

    def __init__(
        self,
        timeline: Timeline,
        k: Rate = 1.0,
        every: Duration = "10%",
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.period = timeline.period("schedule.every", every)
        self.k = k

    def decay(self, step: int) -> float:
        return 1 / (1 + self.k * self.after_warmup(step) / self.period)
