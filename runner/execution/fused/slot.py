"""Keys of the batches and noise that runs of one program may share. Imports no torch."""

import json
from collections.abc import Iterable
from typing import Any

# Number of weights above which runs on a CPU take their optimizer steps one by one, if a step is a few kernel calls. A
# stacked step passes over memory once more, because each run's learning rate is multiplied in afterwards.
MANY_WEIGHTS = 30_000


def batches_key(config: dict[str, Any], mixing: Iterable[str]) -> str:
    """Return a key: runs of one program with equal keys have equal batches. `mixing`: stack items that mix images."""
    items = {name: config["regularization"][name] for name in mixing}
    sources = config["data"], config["transfer"]  # pretrained weights may bring their own normalization
    return json.dumps([config["seed"], *sources, config["augmentation"], items])


def noise_key(config: dict[str, Any], modifying: Iterable[str]) -> str:
    """Return a key: runs of one structure with equal keys draw equal noise. `modifying`: items that may add noise."""
    items = {name: config["regularization"][name] for name in modifying}
    return json.dumps([config["seed"], config["model"], items])
