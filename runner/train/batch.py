"""What a step trains on."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """A training batch, or one micro-batch of it."""

    images: Tensor  # [B, C, H, W], augmented and normalised; or what enters the first stage that trains
    targets: Tensor  # [B] labels, or [B, K] probabilities
    labels: Tensor  # [B], as in the data set
    share: float = 1.0  # of the whole batch
    first: bool = True  # of its micro-batches
    again: bool = False  # a further look of the same step, whose accuracy is not counted

    def split(self, parts: int) -> Iterator["Batch"]:
        """Micro-batches of nearly equal size, whose shares add up to this batch's."""
        if parts == 1:
            yield self
            return
        pieces = (
            self.images.tensor_split(parts),
            self.targets.tensor_split(parts),
            self.labels.tensor_split(parts),
        )
        for number, (images, targets, labels) in enumerate(zip(*pieces)):
            share = self.share * len(images) / len(self.images)
            yield Batch(images, targets, labels, share, number == 0, self.again)
