"""Base class of schedules: a multiplier of every learning rate, as a function of the step."""

from typing import Any, ClassVar

from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.core.timeline import Duration, Timeline


class Schedule(Option):
    """Schedule of the learning rate: `schedule(step) -> multiplier`. Subclasses implement `decay`.

    warmup: epochs, or a share as `'5%'`. The multiplier rises linearly until it reaches `decay` (Goyal et al. 2017,
        section 2.2).
    floor: lower bound of the multiplier after warm-up.
    """

    foreseen: ClassVar[bool] = True  # True: multipliers are known before training; False: they depend on metrics

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
        """Return the multiplier for step 0, 1, ..."""
        rate = max(self.floor, self.decay(max(step, self.warmup_steps)))
        if step < self.warmup_steps:
            rate *= (step + 1) / (self.warmup_steps + 1)
        return rate

    def decay(self, step: int) -> float:
        """Return the multiplier after warm-up. The caller applies the floor."""
        raise NotImplementedError

    def cycles(self) -> list[int]:
        """Return the step counts at which cycles end (20: after 20 steps). Empty for schedules without cycles."""
        return []

    def after_warmup(self, step: int) -> int:
        """Return the steps since warm-up ended."""
        return step - self.warmup_steps

    def done(self, step: int) -> float:
        """Return the completed share of the run after warm-up: 0 at its first step, 1 after the last."""
        return self.after_warmup(step) / (self.timeline.steps - self.warmup_steps)

    def to_floor(self, left: float) -> float:
        """Interpolate from 1 (`left` is 1) to the floor (`left` is 0)."""
        return self.floor + (1 - self.floor) * left

    def observe(self, metrics: dict[str, Any]) -> None:  # noqa: B027
        """Receive the metrics of an epoch (`val_loss`, `val_accuracy`, `train_loss`, ...)."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a schedule that depends on metrics."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore the state of `state_dict`."""
