"""Base class of networks that are initialized from training images."""

import abc
from collections.abc import Iterator

from torch import Tensor, nn


class Fitted(nn.Module, abc.ABC):
    """Network with some initial weights computed from data.

    look_at: number of training images that `fit` gets, or all if there are fewer.
    """

    look_at: int

    @abc.abstractmethod
    def fit(self, images: Iterator[Tensor]) -> None:
        """Initialize weights from batches `[B, C, H, W]` of training images, normalized and not augmented.

        Called once after construction. The images are evenly spaced in the training split, independent of the seed.
        Store results in parameters or buffers, because a network loaded from a checkpoint is not fitted again.
        """
