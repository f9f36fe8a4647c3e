"""Networks that look at training images before they train."""

import abc
from collections.abc import Iterator

from torch import Tensor, nn


class Fitted(nn.Module, abc.ABC):
    """A network part of whose first weights follows from the data.

    look_at: training images that it wants to see, or fewer where there are fewer.
    """

    look_at: int

    @abc.abstractmethod
    def fit(self, images: Iterator[Tensor]) -> None:
        """Once, as soon as it is made: batches `[B, C, H, W]` of training images, normalised, not augmented.

        They are spread evenly over the training split, so that the seed does not choose them. What is found must lie in
        parameters or buffers: a network that is loaded from a checkpoint is not fitted again.
        """
