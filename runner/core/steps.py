"""How an epoch is cut into steps."""

import math
from typing import Any

from runner.schedule.base import Timeline

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
