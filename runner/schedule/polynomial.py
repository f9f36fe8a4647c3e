"""Polynomial decay (torch's `PolynomialLR`; power 0.9 in Chen et al. 2017, DeepLab)."""

from runner.core.schema import Rate
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class Polynomial(Schedule):
    """Decay `(1 - done) ** power`, ending at the floor."""

    def __init__(self, timeline: Timeline, power: Rate = 0.9, warmup: Duration = 0, floor: float = 0.0):
        super().__init__(timeline, warmup, floor)
        self.power = power

    def decay(self, step: int) -> float:
        return self.to_floor((1 - self.done(step)) ** self.power)
