"""What a schedule is: a multiplier of every learning rate, a pure function of the step."""

from dataclasses import dataclass

from runner.errors import ConfigError
from runner.option import Option


@dataclass(frozen=True)
class Timeline:
    """The length of a run."""

    steps: int
    steps_per_epoch: int

    def steps_of(self, key: str, duration: int | float | str) -> int:
        """Steps of a duration: epochs (`5`, `0.5`), or a share of the whole run (`'5%'`).

        Raises `ConfigError`, naming `key`, where it is neither or below zero.
        """
        text = str(duration).strip()
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = -1.0
        if isinstance(duration, bool) or not 0 <= value < float("inf"):
            raise ConfigError(f"{key}={duration}: must be epochs (5) or a share of the run (5%), not below zero")
        return round(value / 100 * self.steps if text.endswith("%") else value * self.steps_per_epoch)


class Schedule(Option):
    """`schedule(step) -> multiplier`; subclasses write `decay`.

    warmup: epochs, or a share as `'5%'`: the multiplier rises linearly, reaching `decay` at its end
        (Goyal et al. 2017, section 2.2).
    floor: the multiplier that `decay` does not fall below.
    """

    def __init__(self, timeline: Timeline, warmup: int | float | str = 0, floor: float = 0.0):
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
        rate = self.decay(max(step, self.warmup_steps))
        if step < self.warmup_steps:
            rate *= (step + 1) / (self.warmup_steps + 1)
        return rate

    def decay(self, step: int) -> float:
        """The multiplier after warm-up."""
        raise NotImplementedError

    def observe(self, metrics: dict[str, float]) -> None:  # noqa: B027
        """The metrics of a validation, for schedules that listen."""

    def state_dict(self) -> dict[str, float]:
        """What a schedule that listens remembers."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:  # noqa: B027
        """The counterpart of `state_dict`."""
