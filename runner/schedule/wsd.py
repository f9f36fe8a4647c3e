"""Warmup-stable-decay: the full rate for most of the run (Zhai et al. 2022; Hägele et al. 2024)."""

import math
from typing import Literal

from runner.core.errors import ConfigError
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class WarmupStableDecay(Schedule):
    """Multiplier 1 until the cooldown, then a decay to the floor.

    cooldown: length of the decay, in epochs or a share.
    shape: `linear`, or `sqrt` for 1 - sqrt(completed share of the cooldown), which is better in Hägele et al.
    """

    def __init__(
        self,
        timeline: Timeline,
        cooldown: Duration = "20%",
        shape: Literal["linear", "sqrt"] = "linear",
        warmup: Duration = "5%",
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.cooldown = timeline.period("schedule.cooldown", cooldown)
        self.shape = SHAPES[shape]
        if self.warmup_steps + self.cooldown > timeline.steps:
            raise ConfigError(
                f"schedule.cooldown={cooldown}: with the warm-up {self.warmup_steps + self.cooldown} steps of a run "
                f"of {timeline.steps}; make one of them shorter"
            )

    def decay(self, step: int) -> float:
        cooled = step - (self.timeline.steps - self.cooldown)
        return 1.0 if cooled <= 0 else self.to_floor(self.shape(cooled / self.cooldown))


SHAPES = {"linear": lambda done: 1 - done, "sqrt": lambda done: 1 - math.sqrt(done)}
