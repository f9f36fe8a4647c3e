"""Reduction of the rate when a metric stops improving (torch's `ReduceLROnPlateau`)."""

from typing import Any, ClassVar, Literal

from runner.core.context import Context
from runner.core.schema import Factor, NonNegative
from runner.core.timeline import Duration, Timeline
from runner.schedule.base import Schedule


class Plateau(Schedule):
    """Multiplier `gamma ** (number of plateaus)`, from the metrics that `observe` has received.

    metric: `val_loss`, `val_accuracy` or `train_loss`, checked after each epoch.
    patience: time without improvement before the rate is reduced, in epochs or a share.
    threshold: an improvement is a change by more than this fraction of the best value.
    cooldown: time after a reduction in which epochs are not counted, in epochs or a share.
    """

    foreseen: ClassVar[bool] = False

    def __init__(
        self,
        timeline: Timeline,
        metric: Literal["val_loss", "val_accuracy", "train_loss"] = "val_loss",
        gamma: Factor = 0.3,
        patience: Duration = 2,
        threshold: NonNegative = 1e-4,
        cooldown: Duration = 0,
        warmup: Duration = 0,
        floor: float = 0.0,
    ):
        super().__init__(timeline, warmup, floor)
        self.metric, self.gamma, self.threshold = metric, gamma, threshold
        self.patience = round(timeline.steps_of("schedule.patience", patience) / timeline.steps_per_epoch)
        self.cooldown = round(timeline.steps_of("schedule.cooldown", cooldown) / timeline.steps_per_epoch)
        self._best: float | None = None
        self._bad = self._resting = 0  # epochs without improvement, and left of the cooldown
        self._multiplier = 1.0

    def check(self, context: Context) -> str | None:
        if self.metric.startswith("val_") and not context.has_validation:
            return (
                f"schedule.metric={self.metric}: plateau watches validation data, and data.val_fraction is 0; "
                "set data.val_fraction=0.1 or schedule.metric=train_loss"
            )
        return None

    def decay(self, step: int) -> float:
        return self._multiplier

    def observe(self, metrics: dict[str, Any]) -> None:
        value = metrics[self.metric]
        if self._best is None or self._better(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._resting > 0:
            self._resting -= 1
            self._bad = 0
        if self._bad > self.patience:
            self._multiplier = max(self.floor, self._multiplier * self.gamma)
            self._resting, self._bad = self.cooldown, 0

    def _better(self, value: float) -> bool:
        if self.metric == "val_accuracy":
            return value > self._best * (1 + self.threshold)
        return value < self._best * (1 - self.threshold)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self._best,
            "bad": self._bad,
            "resting": self._resting,
            "multiplier": self._multiplier,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._bad = state["best"], state["bad"]
        self._resting, self._multiplier = state["resting"], state["multiplier"]
