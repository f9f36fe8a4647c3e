"""The activations that a process keeps for all its runs, and the data sets they are of."""

import hashlib
import itertools
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from runner.data.splits import Split
from runner.execution.features.activations import Activations, content_of
from runner.execution.features.cut import Cut


class Store:
    """What was computed in this process, and how data sets are told apart. One serves all runs."""

    def __init__(self) -> None:
        self._kept: dict[str, Activations] = {}  # used last, stands last
        self.cuts: dict[str, tuple[Cut, Tensor]] = {}  # that were tried, and what crossed them
        self._prints: weakref.WeakKeyDictionary[Split, str] = weakref.WeakKeyDictionary()

    def get(self, key: str, budget: float, make: Callable[[], Activations]) -> Activations:
        """What is kept under a key, else what is made; as much stays as the budget in bytes allows."""
        found = self._kept.pop(key, None) or make()
        while self._kept and sum(other.bytes for other in self._kept.values()) + found.bytes > budget:
            self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found
        return found

    def forget(self, key: str) -> None:
        """What turned out wrong."""
        del self._kept[key]

    def fingerprint(self, split: Split) -> str:
        """Which images, in which order: by the sums of each one's pixels where they are known, else by all pixels."""
        if split not in self._prints:
            digest = hashlib.sha256(repr((len(split), split.shape)).encode())
            parts: Iterable[Tensor] = [split.labels] if split.moments is None else [split.labels, split.moments]
            if split.moments is None:
                numbers = torch.arange(len(split), device=split.device).split(1024)
                parts = itertools.chain(parts, (images for images, _ in split.batches(numbers)))
            for part in parts:
                digest.update(content_of(part))
            self._prints[split] = digest.hexdigest()
        return self._prints[split]
