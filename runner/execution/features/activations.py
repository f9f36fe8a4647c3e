"""Cached activations: the image variants they belong to, a split's batches of them, and their files."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.data.splits import ResidentSplit, Split
from runner.execution.features.cut import Cut
from runner.store.cache import Cache


def count_variants(pipeline: Iterable[Transform]) -> int:
    """Return the number of variants that a pipeline makes of an image."""
    return math.prod(item.variants for item in pipeline)


def variants(images: Tensor, pipeline: Sequence[Transform]) -> Iterator[Tensor]:
    """Yield all variants of images `[B, C, H, W]`, in the order of `pick`'s indices."""
    for numbers in itertools.product(*(range(item.variants) for item in pipeline)):
        view = images
        for item, number in zip(pipeline, numbers, strict=True):
            view = item.apply(view, torch.full((len(images),), number, device=images.device))
        yield view


def pick(count: int, pipeline: Sequence[Transform], draws: torch.Generator) -> Tensor:
    """Draw the variant index of each of `count` images, `[B]`, with the pipeline's draws in its order."""
    picked = torch.zeros(count, dtype=torch.int64, device=draws.device)
    for item in pipeline:
        picked = picked * item.variants + item.pick(count, draws)
    return picked


class Activations:
    """Cached features of a split, with the methods of a split that training and `evaluate` use.

    rows `[N V, F]`: the V variants of image 0, of image 1, ...; values in their order in memory.
    """

    def __init__(self, rows: Tensor, split: Split, cut: Cut):
        self.cut, self.labels, self.shape, self.bytes = cut, split.labels, split.shape, rows.nbytes
        labels = split.labels.cpu().repeat_interleave(len(rows) // len(split))
        self._rows = ResidentSplit(rows, labels).to(split.labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features and labels for each row of `order`; variant v of image i has index `i V + v`."""
        for rows, labels in self._rows.batches(order):
            shape = len(rows), *self.cut.features.shape
            yield rows.as_strided(shape, (rows.shape[1], *self.cut.strides)), labels


def flatten(features: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return a batch of features as rows `[B, F]`, with values in the memory order of `strides`."""
    count, size = len(features), features[0].numel()
    dense = torch.empty_strided(features.shape, (size, *strides), dtype=features.dtype, device=features.device)
    return dense.copy_(features).as_strided((count, size), (size, 1))


def load_rows(
    cache: Cache, name: str, shape: tuple[int, int], dtype: torch.dtype, compute: Callable[[], Iterator[Tensor]]
) -> tuple[Tensor, bool]:
    """Load rows `[N V, F]` from the cache, or compute and store them; also return whether they are new."""

    def write(put: Callable[[bytes], None]) -> None:
        for part in compute():
            put(to_bytes(part))

    entry = cache.get(name, lambda: (math.prod(shape) * dtype.itemsize, write))
    return torch.frombuffer(entry.payload, dtype=dtype).view(shape), entry.is_new


def to_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's values as bytes."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
