"""What a data set is to the rest of the runner: labelled images that come in batches."""

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from runner.core.errors import ConfigError

CHUNK_BYTES = 1 << 26  # pixels handled at once where a whole split would double the memory


class Split(abc.ABC):
    """Labelled images of one size: `labels` int64 [N], on `device`.

    `moments` int64 [N, C, 2], where known: each image's sum of pixels and of squared pixels.
    """

    labels: Tensor
    moments: Tensor | None
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the stored images."""

    @abc.abstractmethod
    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, C, H, W] and labels [B], a pair for each row of `order` (int64 [steps, B]).

        Rows may differ in length (a list of tensors: an evaluation's last batch).
        """

    @abc.abstractmethod
    def select(self, rows: Tensor, labels: Tensor | None = None) -> "Split":
        """The images at `rows` (int64), under new labels where some are given."""

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> "Split":
        """The same split, whose batches come on `device`."""


class ResidentSplit(Split):
    """Images in memory (or in a memory-mapped file), all or those at `rows`."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        moments: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._images, self._rows = images, rows
        self.labels, self.moments = labels, moments
        self.device = images.device if device is None else torch.device(device)

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self._images.shape[1:])

    @property
    def images(self) -> Tensor:
        """Uint8 [N, C, H, W]. A selection is copied out on first use: until then splits share one memory."""
        if self._rows is not None:
            self._images, self._rows = _gather(self._images, self._rows, self._images.device), None
        return self._images

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        memory = self._images.device
        for picked in order:
            rows = picked if self._rows is None else self._rows.index_select(0, picked.to(self._rows.device))
            images = self._images.index_select(0, rows.to(memory)).to(self.device)
            yield images, self.labels.index_select(0, picked.to(self.device))

    def select(self, rows: Tensor, labels: Tensor | None = None) -> "ResidentSplit":
        return ResidentSplit(
            self._images,
            self.labels[rows] if labels is None else labels,
            rows=rows if self._rows is None else self._rows[rows],
            moments=None if self.moments is None else self.moments[rows],
            device=self.device,
        )

    def to(self, device: torch.device | str) -> "ResidentSplit":
        labels, rows = self.labels.to(device), self._rows
        device = labels.device  # with its number, where only "cuda" was said
        if device == self.device:
            return self
        needed = len(self) * self._images[0].numel()
        if device.type == "cuda" and needed > torch.cuda.mem_get_info(device)[0] // 2:
            images = self._images  # too large beside a model: stays in host memory, batches travel
        else:
            images, rows = _gather(self._images, rows, device), None
        return ResidentSplit(images, labels, rows=rows, moments=self.moments, device=device)


@dataclass(frozen=True)
class Source:
    """A data set as it is stored. `identity` is a sha256 of its contents, the same on every machine."""

    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]
    identity: str
    size: int  # side in pixels that enters the network
    skipped: tuple[str, ...] = ()  # unreadable images that were left out


@dataclass(frozen=True)
class Splits:
    """A data set as a run sees it.

    mean, std [C]: of the training split, or those of weights from elsewhere; pixels in 0..1. C channels enter the
    network: images of one channel are repeated.
    """

    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]
    identity: str
    mean: Tensor
    std: Tensor
    size: int
    skipped: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Return the channels that enter the network: more than those of the images where grey ones are repeated."""
        return len(self.mean)

    def normalized_as(self, mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> "Splits":
        """Return them with other statistics, for a network of so many channels (None: as many as now); averaged where
        there are not as many.

        Images of one channel are repeated to more by `runner.data.normalize.Normalize`.
        """
        channels = self.channels if channels is None else channels
        values = [torch.tensor(statistic) for statistic in (mean, std)]
        if len(mean) != channels:
            values = [value.mean().expand(channels).clone() for value in values]
        return replace(self, mean=values[0], std=values[1])

    def to(self, device: torch.device | str) -> "Splits":
        """The same splits, whose batches come on `device`; the statistics stay where they are."""
        val = None if self.val is None else self.val.to(device)
        return replace(self, train=self.train.to(device), val=val, test=self.test.to(device))


def place(root: str | None) -> Path:
    """The `data.root` that a data set with files needs. ConfigError: none was given."""
    if root is None:
        raise ConfigError("data.root is missing: this data set reads files; set data.root=FOLDER")
    return Path(root).expanduser()


def _gather(images: Tensor, rows: Tensor | None, device: torch.device) -> Tensor:
    """`images[rows]` on `device`, in chunks: the copy is the only extra memory."""
    if rows is None:
        return images.to(device)
    result = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, device=device)
    chunk = max(1, CHUNK_BYTES // max(1, images[0].numel()))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk].to(images.device)
        result[start : start + chunk] = images.index_select(0, part).to(device)
    return result
