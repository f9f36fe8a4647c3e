"""Base class of the transforms in the pipeline `augmentation=[a,b,...]`."""

import torch
from torch import Tensor

from runner.core.option import Option
from runner.data.splits import Split


class Transform(Option):
    """Random transform of a batch: `(images [B, C, H, W] uint8, or float in [0, 1]; generator) -> images`.

    It runs on the images' device, draws for each image separately, and draws only from the generator. It may change
    the images' size (crops). After the pipeline, images larger than the network's input are cut to their center.

    A transform with few variants per image sets `variants` and splits `__call__` in two: `pick` draws the index of
    each image's variant, `apply` makes it. Then the features of all variants can be cached.
    """

    variants: int | None = None  # number of variants of an image; None: unlimited

    def fit(self, train: Split, size: int) -> None:
        """Prepare for training on a split. `size`: side of the network's input in pixels."""

    def follow(self, rows: Tensor, epoch: int, seed: int) -> None:
        """Prepare for the next training batch, for transforms whose effect on an image depends on the epoch.

        `rows [B]`: the images' indices in the training split. `epoch` counts from 0. `seed` is the run's.
        """

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the variant index of each of `count` images, `[B]`, with the same draws as `__call__`."""
        raise NotImplementedError

    def apply(self, images: Tensor, picked: Tensor) -> Tensor:
        """Return the images' variants `picked [B]`."""
        raise NotImplementedError
