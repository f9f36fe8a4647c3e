"""Split, Source and Splits: labeled images in batches."""

import abc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from runner.core.errors import ConfigError

CHUNK_BYTES = 1 << 26  # of pixels processed at once, because a whole split would double the memory


class Split(abc.ABC):
    """Labeled images of one size.

    labels: int64 [N], on `device`. moments: int64 [N, C, 2], sums of pixels and of squared pixels of each image; None
    where unknown.
    """

    labels: Tensor
    moments: Tensor | None
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of the stored images."""

    @abc.abstractmethod
    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images uint8 [B, C, H, W] and labels [B] for each batch of rows in `order` (int64 [steps, B]).

        `order` may be a list of tensors of different lengths (an evaluation's last batch is shorter).
        """

    @abc.abstractmethod
    def select(self, rows: Tensor, labels: Tensor | None = None) -> "Split":
        """Return the images at `rows` (int64), with new labels unless None."""

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> "Split":
        """Return the same split with batches on a device."""


class ResidentSplit(Split):
    """Split in memory (or in a memory-mapped file): all images, or those at `rows`."""

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
        """Return all images, uint8 [N, C, H, W]. The first call copies a selection; before it, splits share memory."""
        if self._rows is not None:
            self._images, self._rows = _gather(self._images, self._rows, self._images.device), None
        return self._images

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        memory = self._images.device
        for batch_rows in order:
            rows = batch_rows if self._rows is None else self._rows.index_select(0, batch_rows.to(self._rows.device))
            images = self._images.index_select(0, rows.to(memory)).to(self.device)
            yield images, self.labels.index_select(0, batch_rows.to(self.device))

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
        device = labels.device  # with its number, where only "cuda" was typed
        if device == self.device:
            return self
        needed = len(self) * self._images[0].numel()
        if device.type == "cuda" and needed > torch.cuda.mem_get_info(device)[0] // 2:
            images = self._images  # too large beside a model: only batches are copied to the device
        else:
            images, rows = _gather(self._images, rows, device), None
        return ResidentSplit(images, labels, rows=rows, moments=self.moments, device=device)


@dataclass(frozen=True)
class Source:
    """Data set as it is stored. identity: sha256 of its contents, the same on every machine."""

    train: Split
    val: Split | None
    test: Split
    classes: tuple[str, ...]
    identity: str
    size: int  # pixels of the side that enters the network
    skipped: tuple[str, ...] = ()  # unreadable images, left out


@dataclass(frozen=True)
class Splits:
    """Data set of a run.

    mean, std: [C], of the training split or of loaded weights; pixels in 0..1. C channels enter the network; images of
    one channel are repeated.
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
        """Return the number of channels that enter the network: more than the images' where gray ones are repeated."""
        return len(self.mean)

    def normalized_as(self, mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> "Splits":
        """Return the same splits with other statistics.

        channels: of the network (None: as now). Statistics of another number of channels are averaged.
        `runner.data.normalize.Normalize` repeats images of one channel.
        """
        channels = self.channels if channels is None else channels
        values = [torch.tensor(statistic) for statistic in (mean, std)]
        if len(mean) != channels:
            values = [value.mean().expand(channels).clone() for value in values]
        return replace(self, mean=values[0], std=values[1])

    def to(self, device: torch.device | str) -> "Splits":
        """Return the same splits with batches on a device; the statistics stay where they are."""
        val = None if self.val is None else self.val.to(device)
        return replace(self, train=self.train.to(device), val=val, test=self.test.to(device))


def expand_root(root: str | None) -> Path:
    """Return the path in `data.root`. ConfigError: it is missing."""
    if root is None:
        raise ConfigError("data.root is missing: this data set reads files; set data.root=FOLDER")
    return Path(root).expanduser()


def _gather(images: Tensor, rows: Tensor | None, device: torch.device) -> Tensor:
    """Return `images[rows]` on a device, copied in chunks: the copy is the only extra memory."""
    if rows is None:
        return images.to(device)
    result = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, device=device)
    chunk = max(1, CHUNK_BYTES // max(1, images[0].numel()))
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk].to(images.device)
        result[start : start + chunk] = images.index_select(0, part).to(device)
    return result
