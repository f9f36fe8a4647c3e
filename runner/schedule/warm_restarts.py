"""Cosine annealing with warm restarts (Loshchilov & Hutter 2017; torch's `CosineAnnealingWarmRestarts`)."""

import itertools
import math
from typing import Annotated, ClassVar

from pydantic import Field

from runner.core.errors import ConfigError
from runner.core.schema import Real
from runner.core.timeline import Duration, Timeline
from runner.schedule.cycles import Cycles


class WarmRestarts(Cycles):
    """Cosine cycles from 1 to the floor, each `mult` times as long as the one before. The last one ends with the run.

    every: the length of the first cycle, in epochs or a share.
    """

    fewest: ClassVar[int] = 2

    def __init__(
        self,
        timeline: Timeline,
        every: Duration = "20%",
        mult: Annotated[Real, Field(ge=1)] = 1.0,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        key = f"schedule.every={every}"
        if (steps := timeline.period("schedule.every", every)) < self.fewest:
            raise ConfigError(
                f"{key}: {steps} step of a run of {timeline.steps}, and a cycle needs {self.fewest} to fall; make it "
                "longer"
            )
        first = max(self.fewest, timeline.length_of("schedule.every", every))
        self.divide(key, (first * mult**number for number in itertools.count()))

    def cycle(self, number: int, step: int, length: int) -> float:
        return self.to_floor(0.5 * (1 + math.cos(math.pi * step / length)))
