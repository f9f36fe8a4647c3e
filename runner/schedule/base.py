"""What a schedule is: a multiplier of every learning rate, a pure function of the step."""

from typing import Any, ClassVar

from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.core.timeline import Duration, Timeline


class Schedule(Option):
    """`schedule(step) -> multiplier`; subclasses write `decay`.

    warmup: epochs, or a share as `'5%'`: the multiplier rises linearly, reaching `decay` at its end
        (Goyal et al. 2017, section 2.2).
    floor: the multiplier that `decay` does not fall below.
    """

    foreseen: ClassVar[bool] = True  # known before training; a schedule that listens is not

    def __init__(self, timeline: Timeline, warmup: Duration = 0, floor: float = 0.0):
        self.timeline = timeline
        self.warmup_steps = timeline.steps_of("schedule.warmup", warmup)
        self.floor = floor
        if not 0 <= floor <= 1:
            raise ConfigError(f"schedule.floor={floor}: must be between 0 and 1, a share of the rate")
        if self.warmup_steps >= timeline.steps:
            raise ConfigError(
                f"schedule.warmup={warmup}: {self.warmup_steps} steps of a run of {timeline.steps}; make it shorter"
            )

    def __call__(self, step: int) -> float:
        """The multiplier for step 0, 1, ..."""
        rate = max(self.floor, self.decay(max(step, self.warmup_steps)))
        if step < self.warmup_steps:
            rate *= (step + 1) / (self.warmup_steps + 1)
        return rate

    def decay(self, step: int) -> float:
        """The multiplier after warm-up; the floor is seen to."""
        raise NotImplementedError

    def cycles(self) -> list[int]:
        """The steps after which a cycle ends: 20 is when 20 steps are done. None for schedules without cycles."""
        return []

    def after_warmup(self, step: int) -> int:
        """Steps since warm-up ended."""
        return step - self.warmup_steps

    def done(self, step: int) -> float:
        """The share of the run after warm-up that lies behind: 0 at its first step, 1 after the last."""
        return self.after_warmup(step) / (self.timeline.steps - self.warmup_steps)

    def to_floor(self, left: float) -> float:
        """From 1 (`left` is 1) to the floor (`left` is 0)."""
        return self.floor + (1 - self.floor) * left

    def observe(self, metrics: dict[str, Any]) -> None:  # noqa: B027
        """The row of an epoch (`val_loss`, `val_accuracy`, `train_loss`, ...), for schedules that listen."""

    def state_dict(self) -> dict[str, Any]:
        """What a schedule that listens remembers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """The counterpart of `state_dict`."""
