"""The rate falls by the same factor in equal times (torch's `ExponentialLR`, smooth between epochs)."""

from runner.core.schema import Factor
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class Exponential(Schedule):
    """`gamma ** (t / every)`, t since warm-up ended.

    every: the time in which the rate is multiplied by gamma once, epochs or a share.
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
