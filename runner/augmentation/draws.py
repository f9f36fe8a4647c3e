"""Keys that give a span, and draws from it."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.core.errors import ConfigError
from runner.core.schema import Real
from runner.core.text import shown

Level = Annotated[Real, Field(ge=0, le=255)]  # of a pixel


def span(key: str, values: Sequence[float]) -> tuple[float, float]:
    """`(min, max)` of a key. ConfigError: it is no such pair."""
    if len(values) != 2 or values[0] > values[1]:
        raise ConfigError(f"{key}={shown(values)}: must be two numbers in order, [MIN,MAX]")
    return values[0], values[1]


def uniform(count: int, between: tuple[float, float], generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers [count] drawn between two."""
    low, high = between
    return torch.rand(count, generator=generator, device=device).mul_(high - low).add_(low)
