"""Activations that are kept: which variants of the images they are of, a split's batches of them, their files."""

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
    """How many images a pipeline makes of one."""
    return math.prod(item.variants for item in pipeline)


def variants(images: Tensor, pipeline: Sequence[Transform]) -> Iterator[Tensor]:
    """All that the pipeline makes of images `[B, C, H, W]`, in the order of `pick`'s numbers."""
    for numbers in itertools.product(*(range(item.variants) for item in pipeline)):
        view = images
        for item, number in zip(pipeline, numbers, strict=True):
            view = item.apply(view, torch.full((len(images),), number, device=images.device))
        yield view


def pick(count: int, pipeline: Sequence[Transform], draws: torch.Generator) -> Tensor:
    """Which variant each of `count` images becomes, `[B]`: the pipeline's own draws, in its order."""
    picked = torch.zeros(count, dtype=torch.int64, device=draws.device)
    for item in pipeline:
        picked = picked * item.variants + item.pick(count, draws)
    return picked


class Activations:
    """What enters the first stage that trains, as the batches of a split: all of one that loops and `evaluate` use.

    rows `[N V, F]`: image by image, of each its variants, each in the order of its memory.
    """

    def __init__(self, rows: Tensor, split: Split, cut: Cut):
        self.cut, self.labels, self.shape, self.bytes = cut, split.labels, split.shape, rows.nbytes
        labels = split.labels.cpu().repeat_interleave(len(rows) // len(split))
        self._rows = ResidentSplit(rows, labels).to(split.labels.device)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels for each row of `order`; image i's variant v has the number `i V + v`."""
        for flat, labels in self._rows.batches(order):
            shape = len(flat), *self.cut.features.shape
            yield flat.as_strided(shape, (flat.shape[1], *self.cut.strides)), labels


def flat(features: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A batch of features as rows `[B, F]`, each in the order of memory that `strides` give it."""
    count, size = len(features), features[0].numel()
    dense = torch.empty_strided(features.shape, (size, *strides), dtype=features.dtype, device=features.device)
    return dense.copy_(features).as_strided((count, size), (size, 1))


def rows(
    cache: Cache, name: str, shape: tuple[int, int], dtype: torch.dtype, compute: Callable[[], Iterator[Tensor]]
) -> tuple[Tensor, bool]:
    """Load rows `[N V, F]` from the cache, or compute them part by part; return whether they were computed, too."""

    def write(put: Callable[[bytes], None]) -> None:
        for part in compute():
            put(content_of(part))

    entry = cache.get(name, lambda: (math.prod(shape) * dtype.itemsize, write))
    return torch.frombuffer(entry.payload, dtype=dtype).view(shape), entry.is_new


def content_of(tensor: Tensor) -> bytes:
    """A tensor's numbers."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
