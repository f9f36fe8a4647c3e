"""What an option may look at when it is asked whether it works with the rest."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Context:
    """A combination as the rehearsal sees it. Items read it in `check(context) -> str | None`.

    The model is on the meta device (or the CPU where it cannot be there). An item of the stack is asked when the items
    before it have changed the model, every other option when all have.
    """

    config: dict[str, Any]
    model: nn.Module
    channels: int  # of the images
    in_channels: int  # that enter the network: more where grey images are repeated
    stored_size: int  # pixels of the side of an image as it is kept
    image_size: int  # pixels of the side that enters the network
    num_classes: int
    train_size: int  # images
    has_validation: bool
    stack: dict[str, Any]  # name -> regularization item
    pipeline: dict[str, Any]  # name -> augmentation item
    transfer: Any = None
    schedule: Any = None
