"""Label smoothing (Szegedy et al. 2016, section 7)."""

import torch
from torch import Tensor

from runner.core.errors import ConfigError
from runner.regularization.base import Item, soft


def smooth_labels(targets: Tensor, smoothing: float, num_classes: int) -> Tensor:
    """Return `(1 - smoothing) * target + smoothing / K`, `[B, K]`."""
    return soft(targets, num_classes) * (1 - smoothing) + smoothing / num_classes


class LabelSmoothing(Item):
    keeps_images = True

    def __init__(self, smoothing: float = 0.1):
        if not 0 <= smoothing < 1:
            raise ConfigError(f"regularization.label_smoothing.smoothing={smoothing}: must be at least 0 and below 1")
        self.smoothing = smoothing

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return images, smooth_labels(targets, self.smoothing, num_classes)
