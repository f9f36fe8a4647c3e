"""In-memory store of activations, shared by all runs of a process."""

import hashlib
import itertools
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from runner.data.splits import Split
from runner.execution.features.activations import Activations, to_bytes
from runner.execution.features.cut import Cut


class Store:
    """LRU store of activations, cuts and data fingerprints; one instance per process."""

    def __init__(self) -> None:
        self._entries: dict[str, Activations] = {}  # most recently used last
        self.cuts: dict[str, tuple[Cut, Tensor]] = {}  # verified cuts, each with features of sample images
        self._fingerprints: weakref.WeakKeyDictionary[Split, str] = weakref.WeakKeyDictionary()

    def get(self, key: str, budget: float, make: Callable[[], Activations]) -> Activations:
        """Return the entry of a key, made if missing; evict the least recently used beyond the budget in bytes."""
        entry = self._entries.pop(key, None) or make()
        while self._entries and sum(other.bytes for other in self._entries.values()) + entry.bytes > budget:
            self._entries.pop(next(iter(self._entries)))
        self._entries[key] = entry
        return entry

    def forget(self, key: str) -> None:
        """Delete an entry."""
        del self._entries[key]

    def fingerprint(self, split: Split) -> str:
        """Return a hash of a split's labels and images, in order.

        Images are hashed by their per-image moments if the split has them, else by all pixels.
        """
        if split not in self._fingerprints:
            digest = hashlib.sha256(repr((len(split), split.shape)).encode())
            parts: Iterable[Tensor] = [split.labels] if split.moments is None else [split.labels, split.moments]
            if split.moments is None:
                indices = torch.arange(len(split), device=split.device).split(1024)
                parts = itertools.chain(parts, (images for images, _ in split.batches(indices)))
            for part in parts:
                digest.update(to_bytes(part))
            self._fingerprints[split] = digest.hexdigest()
        return self._fingerprints[split]
