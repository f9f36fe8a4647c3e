"""Activations that are kept: which variants of the images they are of, a split's batches of them, their files."""

import hashlib
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from runner.augmentation.base import Transform
from runner.data.splits import ResidentSplit, Split
from runner.files import write_atomic
from runner.transfer.cut import Cut

log = logging.getLogger(__name__)

OURS = f"features-{'[0-9a-f]' * 32}.bin"  # files in the cache's folder, which may be the user's; a pattern
FOLDER_BYTES = 20e9  # of all files; those unused for longest go first
DIGEST = 64  # bytes: a file begins with the sha256 of its rows, in hexadecimal digits


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
    path: Path | None, shape: tuple[int, int], dtype: torch.dtype, compute: Callable[[], Iterator[Tensor]], trust: bool
) -> tuple[Tensor, str]:
    """Rows `[N V, F]` and where they came from: `read` from the file at `path`, or `computed` and written there.

    The file is mapped into memory. Without a path, or room, the rows are in memory. `trust`: a whole file is right.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    if path is not None and size <= FOLDER_BYTES:
        try:
            # Two workers that need the same rows: one computes them, the other waits and reads.
            with FileLock(path.with_suffix(".lock")):
                if trust and _whole(path, size):
                    return _mapped(path, shape, dtype), "read"
                _make_room(path.parent, size)
                write_atomic(path, lambda file: _write(file, compute()), durable=False)
                return _mapped(path, shape, dtype), "computed"
        except OSError as error:
            log.warning("features cannot be kept in '%s' (%s): they stay in memory", path, error)
    found, at = torch.empty(shape, dtype=dtype), 0
    for part in compute():
        found[at : at + len(part)] = part
        at += len(part)
    return found, "computed"


def _write(file: BinaryIO, parts: Iterable[Tensor]) -> None:
    digest = hashlib.sha256()
    file.write(b" " * DIGEST)
    for part in parts:
        content = content_of(part)
        digest.update(content)
        file.write(content)
    file.seek(0)
    file.write(digest.hexdigest().encode())


def _whole(path: Path, size: int) -> bool:
    """Whether the file is there and is what was written."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        digest = file.read(DIGEST)
        whole = path.stat().st_size == DIGEST + size
        whole = whole and hashlib.file_digest(file, "sha256").hexdigest().encode() == digest
    if whole:
        os.utime(path)  # it was used
    else:
        log.warning("feature cache '%s' is damaged; making it again", path)
    return whole


def _mapped(path: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    # copy-on-write: torch warns of read-only memory; unwritten pages are shared all the same
    return torch.from_numpy(np.memmap(path, np.uint8, "c", offset=DIGEST)).view(dtype).view(shape)


def _make_room(folder: Path, size: int) -> None:
    """Removes the files that were unused for longest."""
    files = sorted(folder.glob(OURS), key=lambda path: path.stat().st_mtime)
    total = size + sum(path.stat().st_size for path in files)
    for path in files:
        if total <= FOLDER_BYTES:
            return
        total -= path.stat().st_size
        path.unlink()
        path.with_suffix(".lock").unlink(missing_ok=True)


def content_of(tensor: Tensor) -> bytes:
    """A tensor's numbers."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
