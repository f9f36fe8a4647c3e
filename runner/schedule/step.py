"""Decay by a factor at equal intervals (torch's `StepLR`)."""

from runner.core.schema import Factor
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class Step(Schedule):
    """Decay `gamma ** (number of completed periods)`, counted from the start of training.

    every: the period, in epochs or a share as `'34%'`.
    """

    def __init__(
        self,
        timeline: Timeline,
        every: Duration = "34%",
        gamma: Factor = 0.1,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.period = timeline.period("schedule.every", every)
        self.gamma = gamma

    def decay(self, step: int) -> float:
        return self.gamma ** (step // self.period)
