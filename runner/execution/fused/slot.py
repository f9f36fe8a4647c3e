"""What runs of one program have in common. Loads no torch."""

import json
from collections.abc import Iterable
from typing import Any

# Weights of a run, above which an optimizer whose step is a few calls takes it for each run by itself, on a CPU: what
# goes through memory then gains more than calls for all, whose steps each run's rate has yet to multiply.
MANY_WEIGHTS = 30_000


def batches(config: dict[str, Any], mixing: Iterable[str]) -> str:
    """What runs of one program agree in whose batches are equal, step by step; `mixing`: items of their stacks."""
    items = {name: config["regularization"][name] for name in mixing}
    whence = config["data"], config["transfer"]  # whose weights may bring a normalisation of their own
    return json.dumps([config["seed"], *whence, config["augmentation"], items])


def noise(config: dict[str, Any], modifying: Iterable[str]) -> str:
    """What runs of one structure agree in whose networks draw the same; `modifying`: items that may bring noise."""
    items = {name: config["regularization"][name] for name in modifying}
    return json.dumps([config["seed"], config["model"], items])
