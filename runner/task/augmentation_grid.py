"""What a pipeline makes of images, seen before training: rows are images, columns are draws, the original first."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.augmentation.base import Transform
from runner.core.seeds import generator
from runner.core.text import shown
from runner.data.normalize import Normalize
from runner.data.splits import Split, Splits
from runner.tracking.pictures import draws_grid

CHOSEN_FROM = 512  # images, drawn at random, among which those of a preview are


class Preview:
    """`rows` training images of different classes, drawn by the seed, `draws` times each.

    Everything is drawn from generators of its own: a run that shows a preview is the run that shows none.
    """

    def __init__(self, splits: Splits, normalize: Normalize, seed: int, rows: int, draws: int, side: int = 96):
        self.normalize, self.seed, self.draws, self.side = normalize, seed, draws, side
        self.classes = splits.classes
        picked = varied(splits.train, rows, generator(seed, "images of the preview"))
        self.images, self.labels = next(splits.train.batches(picked[None]))
        self.names = [splits.classes[label] for label in self.labels.tolist()]
        self.original = self._seen(self.images)

    def _seen(self, images: Tensor) -> Tensor:
        """Images as the network gets them, as bytes."""
        return self.bytes(self.normalize(images))

    def bytes(self, inputs: Tensor) -> Tensor:
        """Network inputs as images that can be looked at, uint8."""
        return self.normalize.undo(inputs).mul_(255).round_().to(torch.uint8)

    def grid(self, pipeline: Mapping[str, Transform], config: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
        """The picture of a pipeline, or of a part of it; `config` has its items' parameters."""
        draws = generator(self.seed, f"preview of {','.join(pipeline)}", self.images.device)
        images = self.images.repeat_interleave(self.draws, 0)
        for transform in pipeline.values():
            images = transform(images, draws)
        drawn = self._seen(images).unflatten(0, (len(self.names), self.draws))
        return self.picture(drawn, words(config, pipeline))

    def picture(self, drawn: Tensor, title: str, labels: list[list[str]] | None = None) -> np.ndarray:
        """`drawn` uint8 `[rows, draws, C, H, W]` beside the originals; `labels` are the draws' own."""
        images = torch.cat((self.original[:, None], drawn), 1).cpu().numpy()
        below = [["", *row] for row in labels] if labels else None
        return draws_grid(images, self.names, title, below, side=self.side)


def varied(split: Split, count: int, draws: torch.Generator) -> Tensor:
    """Numbers of `count` images, of as many classes as can be: first one of each class, then a second one."""
    drawn = torch.randperm(len(split), generator=draws)[:CHOSEN_FROM].to(split.labels.device)
    labels = split.labels[drawn]
    before = (labels[:, None] == labels).tril(-1).sum(1)  # images of the same class
    return drawn[before.argsort(stable=True)[:count]]


def words(config: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> str:
    """Items of a stack with their parameters: `flip p=0.5, crop padding=auto fill=0`."""
    keys = {name: [f"{k}={shown(v)}" for k, v in config[name].items() if not k.startswith("_")] for name in names}
    return ", ".join(" ".join([name, *keys[name]]) for name in names)
