"""Exponential decay (torch's `ExponentialLR`, smooth between epochs)."""

from runner.core.schema import Factor
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class Exponential(Schedule):
    """Exponential decay `gamma ** (t / every)`, with t since the end of warm-up.

    every: the time for one factor of gamma, in epochs or a share.
    """

    def __init__(
        self,
        timeline: Timeline,
        every: Duration = "10%",
        gamma: Factor = 0.6,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.period = timeline.period("schedule.every", every)
        self.gamma = gamma

    def decay(self, step: int) -> float:
        return self.gamma ** (self.after_warmup(step) / self.period)
