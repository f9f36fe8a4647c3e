"""One-cycle schedule (Smith & Topin 2018; torch's `OneCycleLR` without the momentum cycle).

`optimizer.lr` is the peak. Momentum does not change.
"""

import math

from runner.core.errors import ConfigError
from runner.core.schema import Rate
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class OneCycle(Schedule):
    """One rise from `1 / div_factor` to 1 and one fall to `1 / (div_factor * final_div_factor)`, both half cosines.

    rise: the length of the rise, in epochs or a share. The cycle takes all of the run after warm-up.
    """

    def __init__(
        self,
        timeline: Timeline,
        rise: Duration = "30%",
        div_factor: Rate = 25.0,
        final_div_factor: Rate = 1e4,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.length = timeline.steps - self.warmup_steps
        # As in torch, the first step has the start rate and the last step the final rate.
        self.top = timeline.steps_of("schedule.rise", rise) - 1
        self.start, self.end = 1 / div_factor, 1 / (div_factor * final_div_factor)
        for key, value, low in (("div_factor", div_factor, 1), ("final_div_factor", final_div_factor, 1 / div_factor)):
            if value < low:
                raise ConfigError(f"schedule.{key}={value}: must be at least {low:g}, for optimizer.lr is the peak")
        if not 1 <= self.top < self.length - 1:
            raise ConfigError(
                f"schedule.rise={rise}: {self.top + 1} steps of {self.length}; the rate must rise for two steps "
                "at least and fall for one"
            )

    def decay(self, step: int) -> float:
        t = self.after_warmup(step)
        if t <= self.top:
            return _cosine(self.start, 1.0, t / self.top)
        return _cosine(1.0, self.end, (t - self.top) / (self.length - 1 - self.top))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))
