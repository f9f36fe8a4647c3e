"""The training batch of a step."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """A training batch, or one micro-batch of it."""

    images: Tensor  # [B, C, H, W], augmented and normalized; or cached features, the input of the first trained stage
    targets: Tensor  # [B] labels, or [B, K] probabilities
    labels: Tensor  # [B], as in the data set
    share: float = 1.0  # fraction of the whole batch
    first: bool = True  # first micro-batch of its batch
    repeated: bool = False  # evaluated again in the same step; its accuracy is not counted

    def split(self, parts: int) -> Iterator["Batch"]:
        """Yield micro-batches of nearly equal size; their shares add up to this batch's share."""
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
            yield Batch(images, targets, labels, share, number == 0, self.repeated)
