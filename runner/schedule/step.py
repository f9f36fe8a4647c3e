"""The rate is multiplied by gamma every so often (torch's `StepLR`)."""

from runner.errors import ConfigError
from runner.schedule.base import Schedule, Timeline


class Step(Schedule):
    """`gamma ** (number of whole periods passed)`, counted from the start of training.

    every: the period, epochs or a share as `'33%'`.
    """

    def __init__(
        self,
        timeline: Timeline,
        every: int | float | str = "33%",
        gamma: float = 0.1,
        warmup: int | float | str = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.period = timeline.steps_of("schedule.every", every)
        self.gamma = gamma
        if self.period < 1:
            raise ConfigError(f"schedule.every={every}: must be at least one step")
        if not 0 < gamma <= 1:
            raise ConfigError(f"schedule.gamma={gamma}: must be above 0 and at most 1")

    def decay(self, step: int) -> float:
        return max(self.floor, self.gamma ** (step // self.period))
