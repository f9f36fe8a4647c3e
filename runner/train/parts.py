"""The objects that a run is built from."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner.core.timeline import Timeline
from runner.data.splits import Splits


@dataclass
class Parts:
    """The objects of one run, on its device."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    stack: dict[str, Any]
    pipeline: dict[str, Any]
    transfer: Any
    ensemble: Any
    evaluation: Any
    splits: Splits
    timeline: Timeline
