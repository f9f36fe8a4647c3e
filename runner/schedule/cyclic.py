"""Triangular cycles between a low and the full rate (Smith 2017; torch's `CyclicLR` without the momentum cycle).

`optimizer.lr` is the peak. Momentum does not change.
"""

import itertools
from typing import ClassVar

from runner.core.schema import Factor, Fraction
from runner.core.timeline import Duration, Timeline
from runner.schedule.cycles import Cycles


class Cyclic(Cycles):
    """Triangles from `low` up to 1 and down again. Their height is multiplied by `gamma` after each cycle.

    up, down: lengths of the two slopes, in epochs or shares; `down=null` means as long as `up`. The last triangle ends
        with the run.
    gamma: 1 is Smith's `triangular`, 0.5 his `triangular2`.
    """

    fewest: ClassVar[int] = 3  # bottom, top, and a step between them

    def __init__(
        self,
        timeline: Timeline,
        low: Fraction = 0.1,
        up: Duration = "10%",
        down: Duration | None = None,
        gamma: Factor = 1.0,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.low, self.gamma = low, gamma
        slopes = {"schedule.up": up} | ({} if down is None else {"schedule.down": down})
        for key, slope in slopes.items():
            timeline.period(key, slope)
        lengths = [max(1.0, timeline.length_of(key, slope)) for key, slope in slopes.items()]
        total = lengths[0] + lengths[-1]
        self.rise = lengths[0] / total  # share of a cycle with a rising rate
        self.divide(" ".join(f"{key}={slope}" for key, slope in slopes.items()), itertools.repeat(total))

    def cycle(self, number: int, step: int, length: int) -> float:
        fall = 2 if number == len(self.ends) - 1 else 1  # because with one step the run would end at the top
        up = min(max(1, round(self.rise * length)), length - fall)
        height = step / up if step <= up else 1 - (step - up) / (length - up)
        return self.low + (1 - self.low) * self.gamma**number * height
