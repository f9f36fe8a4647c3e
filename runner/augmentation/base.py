"""What a transform of the pipeline `augmentation=[a,b,...]` is."""

import torch
from torch import Tensor

from runner.core.option import Option
from runner.data.splits import Split


class Transform(Option):
    """`(images [B, C, H, W] uint8, or float in [0, 1]; generator) -> images`, random for each image on its own.

    Runs on the images' device, whole batches at once, and draws only from the generator. Images may change size
    (crops); what is larger than the network's input in the end is cut to its centre.

    Items that make few variants of an image say how many, and what `__call__` does in two parts: `pick` draws the
    number of each image's variant, `apply` makes it. Then what a network makes of all variants can be kept.
    """

    variants: int | None = None  # None: ever new images

    def fit(self, train: Split, size: int) -> None:
        """Before training: the split it will see, and the side in pixels that enters the network."""

    def follow(self, rows: Tensor, epoch: int, seed: int) -> None:
        """While a run trains, before each batch: the numbers of its images `[B]` in the training split, the epoch (from
        0), and the run's seed. For items that treat an image in one epoch by how they treated it in others."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Which variant each of `count` images becomes, `[B]`, with the draws of `__call__`."""
        raise NotImplementedError

    def apply(self, images: Tensor, picked: Tensor) -> Tensor:
        """The images' variants `picked [B]`."""
        raise NotImplementedError
