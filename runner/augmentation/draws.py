"""Ranges from the config, and uniform draws from them."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.core.errors import ConfigError
from runner.core.schema import Real
from runner.core.text import shown

Level = Annotated[Real, Field(ge=0, le=255)]  # pixel value


def check_range(key: str, values: Sequence[float]) -> tuple[float, float]:
    """Return `(min, max)` of a key. Raises ConfigError unless it is two numbers in order."""
    if len(values) != 2 or values[0] > values[1]:
        raise ConfigError(f"{key}={shown(values)}: must be two numbers in order, [MIN,MAX]")
    return values[0], values[1]


def draw_uniform(count: int, limits: tuple[float, float], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw numbers [count] uniformly between the limits."""
    low, high = limits
    return torch.rand(count, generator=generator, device=device).mul_(high - low).add_(low)
