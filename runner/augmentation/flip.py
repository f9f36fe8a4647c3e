"""Random horizontal flip."""

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.core.errors import ConfigError
from runner.core.seeds import generator as stream
from runner.data.splits import Split


def flip(images: Tensor, mask: Tensor, axis: int = -1) -> Tensor:
    """Return `images [B, C, H, W]` with those marked by `mask [B]` (bool) flipped along an axis."""
    # Indexing into both versions is faster than `where`, which broadcasts its mask over every pixel.
    both = torch.cat((images, images.flip(axis)))
    return both.index_select(0, torch.arange(len(images), device=images.device) + mask * len(images))


class Flip(Transform):
    """Horizontal flip of each image with probability p.

    alternate: in training, flip each image in every second epoch, half of the images in the first one (Jordan 2024,
    section 3.6). Outside training, images are flipped at random.
    """

    variants = 2
    name, axis = "flip", -1

    def __init__(self, p: float = 0.5, alternate: bool = False):
        if not 0 <= p <= 1:
            raise ConfigError(f"augmentation.{self.name}.p={p}: must be between 0 and 1")
        if alternate and p != 0.5:
            raise ConfigError(
                f"augmentation.{self.name}.p={p}: alternate=true mirrors every image in half of its epochs; use p=0.5, "
                "or alternate=false"
            )
        self.p, self.alternate = p, alternate
        self._count, self._seed = 0, None
        self._next: Tensor | None = None  # bool [B]: the images of the next batch to flip

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (self.alternate or hook != "follow")

    def fit(self, train: Split, size: int) -> None:
        self._count = len(train)

    def follow(self, rows: Tensor, epoch: int, seed: int) -> None:
        if self._seed != seed:  # drawn on the CPU, so that it is the same on all devices
            first = torch.rand(self._count, generator=stream(seed, f"first {self.name}")) < self.p
            self._first, self._seed = first.to(rows.device), seed
        self._next = self._first.index_select(0, rows) ^ (epoch % 2 == 1)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, self.pick(len(images), generator))

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        if self._next is not None and len(self._next) == count:
            mask, self._next = self._next, None
            return mask.to(generator.device)
        return torch.rand(count, generator=generator, device=generator.device) < self.p

    def apply(self, images: Tensor, picked: Tensor) -> Tensor:
        return flip(images, picked, self.axis)
