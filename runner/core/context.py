"""Context: the combination of options that an option checks itself against."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Context:
    """A combination of options during preflight. Options read it in `check(context) -> str | None`.

    The model is on the meta device, or on the CPU where it cannot be built there. An item of the stack is checked after
    the items before it have modified the model, every other option after all of them have.
    """

    config: dict[str, Any]
    model: nn.Module
    channels: int  # of the images
    in_channels: int  # that enter the network: more where gray images are repeated
    stored_size: int  # pixels of the side of a stored image
    image_size: int  # pixels of the side that enters the network
    num_classes: int
    train_size: int  # images
    has_validation: bool
    stack: dict[str, Any]  # name -> regularization item
    pipeline: dict[str, Any]  # name -> augmentation item
    transfer: Any = None
    schedule: Any = None
