"""The length of a run: epochs, the steps that they are cut into, durations."""

import math
from dataclasses import dataclass
from typing import Any

from runner.core.errors import ConfigError

Duration = int | float | str  # epochs (`5`, `0.5`), or a share of the whole run (`'5%'`)


@dataclass(frozen=True)
class Timeline:
    """The length of a run."""

    steps: int
    steps_per_epoch: int

    def steps_of(self, key: str, duration: Duration) -> int:
        """Return the whole steps of a duration, as `length_of`."""
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
        """As `steps_of`; raises `ConfigError` where it is shorter than one step."""
        steps = self.steps_of(key, duration)
        if steps < 1:
            raise ConfigError(f"{key}={duration}: must be at least one step (of {self.steps}); make it longer")
        return steps


CHUNK = 1024  # images of a full batch that go through the network at once, where batch_size is smaller


def batches(config: dict[str, Any], images: int) -> tuple[int, int]:
    """Images a step, and the micro-batches it is split into; a full batch goes through in chunks that fit."""
    if config["optimizer"]["full_batch"]:
        return images, max(config["accumulate"], math.ceil(images / max(config["batch_size"], CHUNK)))
    return config["batch_size"], config["accumulate"]


def timeline(config: dict[str, Any], images: int) -> Timeline:
    """The steps of a run; the images of an epoch that fill no whole batch are left out of it."""
    each = images // batches(config, images)[0]
    return Timeline(config["epochs"] * each, each)
