"""Preview of an augmentation pipeline: rows are images, columns are the original and its random draws."""

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

CHOSEN_FROM = 512  # random images from which a preview takes its images


class Preview:
    """Pictures of `rows` training images of different classes, augmented `draws` times each.

    All random numbers come from separate generators, so a preview does not change the run.
    """

    def __init__(self, splits: Splits, normalize: Normalize, seed: int, rows: int, draws: int, side: int = 96):
        self.normalize, self.seed, self.draws, self.side = normalize, seed, draws, side
        self.classes = splits.classes
        indices = varied(splits.train, rows, generator(seed, "images of the preview"))
        self.images, self.labels = next(splits.train.batches(indices[None]))
        self.names = [splits.classes[label] for label in self.labels.tolist()]
        self.original = self._network_view(self.images)

    def _network_view(self, images: Tensor) -> Tensor:
        """Return images as the network gets them, uint8."""
        return self.to_uint8(self.normalize(images))

    def to_uint8(self, inputs: Tensor) -> Tensor:
        """Return normalized network inputs as uint8 images."""
        return self.normalize.undo(inputs).mul_(255).round_().to(torch.uint8)

    def grid(self, pipeline: Mapping[str, Transform], config: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
        """Return the picture of a pipeline or of a part of it; `config` maps items to their parameters."""
        draws = generator(self.seed, f"preview of {','.join(pipeline)}", self.images.device)
        images = self.images.repeat_interleave(self.draws, 0)
        for transform in pipeline.values():
            images = transform(images, draws)
        drawn = self._network_view(images).unflatten(0, (len(self.names), self.draws))
        return self.picture(drawn, words(config, pipeline))

    def picture(self, drawn: Tensor, title: str, labels: list[list[str]] | None = None) -> np.ndarray:
        """Return a picture of `drawn`, uint8 `[rows, draws, C, H, W]`, beside the originals; `labels` are per draw."""
        images = torch.cat((self.original[:, None], drawn), 1).cpu().numpy()
        below = [["", *row] for row in labels] if labels else None
        return draws_grid(images, self.names, title, below, side=self.side)


def varied(split: Split, count: int, draws: torch.Generator) -> Tensor:
    """Return indices of `count` images from as many classes as possible: first one per class, then a second one."""
    drawn = torch.randperm(len(split), generator=draws)[:CHOSEN_FROM].to(split.labels.device)
    labels = split.labels[drawn]
    earlier = (labels[:, None] == labels).tril(-1).sum(1)  # number of earlier images of the same class
    return drawn[earlier.argsort(stable=True)[:count]]


def words(config: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> str:
    """Return the items of a stack with their parameters: `flip p=0.5, crop padding=auto fill=0`."""
    keys = {name: [f"{k}={shown(v)}" for k, v in config[name].items() if not k.startswith("_")] for name in names}
    return ", ".join(" ".join([name, *keys[name]]) for name in names)
