"""Streamed photos: decoded in order by worker processes; the number of workers does not change results."""

import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from runner.data.decode import decode
from runner.data.splits import Split

Decoded = tuple[np.ndarray | None, str | None]  # (pixels uint8 [3, side, side], None) or (None, error)


class StreamedSplit(Split):
    """Split of photo files: `batches` decodes them anew each time."""

    def __init__(
        self,
        files: list[str],
        labels: Tensor,
        *,
        side: int,
        workers: int,
        moments: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.files, self.labels, self.moments = files, labels, moments
        self.side, self.workers, self.device = side, workers, torch.device(device)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.side, self.side

    def batches(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches, see `Split.batches`. OSError names a file that cannot be read any more."""
        batches = [rows.cpu() for rows in order]
        tasks = ([self.files[row] for row in rows.tolist()] for rows in batches)
        for rows, decoded in zip(batches, in_order(list(tasks), self.side, self.workers), strict=True):
            for row, (_, error) in zip(rows.tolist(), decoded, strict=True):
                if error is not None:
                    raise OSError(f"cannot read the image '{self.files[row]}': {error}")
            images = torch.from_numpy(np.stack([pixels for pixels, _ in decoded]))
            yield images.to(self.device), self.labels.index_select(0, rows.to(self.labels.device))

    def select(self, rows: Tensor, labels: Tensor | None = None) -> "StreamedSplit":
        return StreamedSplit(
            [self.files[row] for row in rows.tolist()],
            self.labels[rows] if labels is None else labels,
            side=self.side,
            workers=self.workers,
            moments=None if self.moments is None else self.moments[rows],
            device=self.device,
        )

    def to(self, device: torch.device | str) -> "StreamedSplit":
        labels = self.labels.to(device)
        return StreamedSplit(
            self.files,
            labels,
            side=self.side,
            workers=self.workers,
            moments=self.moments,
            device=labels.device,
        )


def in_order(tasks: list[list[str]], side: int, workers: int) -> Iterator[list[Decoded]]:
    """Yield each task's files decoded, in the order of the tasks, by `workers` processes (0: in this one)."""
    loader = DataLoader(
        _Files(tasks, side),
        batch_size=None,  # a task is a batch already
        num_workers=workers,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # its own, because a loader without one draws from torch's global stream
    )
    return iter(loader)


def worker_count(workers: int | Literal["auto"]) -> int:
    """Return the number of worker processes. `auto`: one a core, none for a single core."""
    if multiprocessing.current_process().daemon:
        return 0  # because a daemonic process may have no children
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores if cores > 1 else 0


class _Files(Dataset):
    def __init__(self, tasks: list[list[str]], side: int) -> None:
        self.tasks, self.side = tasks, side

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> list[Decoded]:
        return [_attempt(path, self.side) for path in self.tasks[index]]


def _attempt(path: str, side: int) -> Decoded:
    try:
        return decode(path, side), None
    except OSError as error:  # returned, not raised, because a loader would wrap it in a traceback of many lines
        return None, str(error)


def _unchanged(task: list[Decoded]) -> list[Decoded]:
    return task
