"""Decay by a factor at milestones (torch's `MultiStepLR`)."""

from runner.core.errors import ConfigError
from runner.core.schema import Factor
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class MultiStep(Schedule):
    """Decay `gamma ** (number of passed milestones)`, counted from the start of training.

    milestones: increasing times within the run, in epochs or shares as `'50%'`.
    """

    def __init__(
        self,
        timeline: Timeline,
        milestones: list[Duration] = ("50%", "75%"),
        gamma: Factor = 0.1,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.milestones = [timeline.period("schedule.milestones", time) for time in milestones]
        self.gamma = gamma
        text = "[" + ",".join(map(str, milestones)) + "]"
        if not milestones or self.milestones != sorted(set(self.milestones)):
            raise ConfigError(f"schedule.milestones={text}: must be times that grow, such as [50%,75%]")
        if self.milestones[-1] >= timeline.steps:
            raise ConfigError(
                f"schedule.milestones={text}: {self.milestones[-1]} steps of a run of {timeline.steps}; "
                "a milestone must lie inside it"
            )

    def decay(self, step: int) -> float:
        return self.gamma ** sum(step >= milestone for milestone in self.milestones)
