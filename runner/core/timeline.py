"""Timeline: the length of a run in epochs and steps, and durations within it."""

import math
from dataclasses import dataclass
from typing import Any

from runner.core.errors import ConfigError

Duration = int | float | str  # epochs (`5`, `0.5`), or a share of the whole run (`'5%'`)


@dataclass(frozen=True)
class Timeline:
    """Length of a run in steps."""

    steps: int
    steps_per_epoch: int

    def steps_of(self, key: str, duration: Duration) -> int:
        """Return a duration in whole steps, see `length_of`."""
        return round(self.length_of(key, duration))

    def length_of(self, key: str, duration: Duration) -> float:
        """Return a duration in steps: epochs (`5`, `0.5`), or a share of the whole run (`'5%'`).

        Raises `ConfigError`, naming `key`, where it is neither or below zero.
        """
        text = str(duration).strip()
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = -1.0
        if isinstance(duration, bool) or not 0 <= value < float("inf"):
            raise ConfigError(f"{key}={duration}: must be epochs (5) or a share of the run (5%), not below zero")
        return value / 100 * self.steps if text.endswith("%") else value * self.steps_per_epoch

    def period(self, key: str, duration: Duration) -> int:
        """Return a duration in whole steps. Raises `ConfigError` where it is shorter than one step."""
        steps = self.steps_of(key, duration)
        if steps < 1:
            raise ConfigError(f"{key}={duration}: must be at least one step (of {self.steps}); make it longer")
        return steps


CHUNK = 1024  # images in a micro-batch of a full batch, where batch_size is smaller


def batches(config: dict[str, Any], images: int) -> tuple[int, int]:
    """Return (images per step, micro-batches per step)."""
    if config["optimizer"]["full_batch"]:
        return images, max(config["accumulate"], math.ceil(images / max(config["batch_size"], CHUNK)))
    return config["batch_size"], config["accumulate"]


def timeline(config: dict[str, Any], images: int) -> Timeline:
    """Return the length of a run; images of an epoch that fill no whole batch are left out."""
    steps_per_epoch = images // batches(config, images)[0]
    return Timeline(config["epochs"] * steps_per_epoch, steps_per_epoch)
