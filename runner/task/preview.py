"""`task=preview`: pictures of the augmentation pipeline and of each of its items, without training."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.schema import Positive
from runner.core.seeds import generator
from runner.data.normalize import Normalize
from runner.store.files import png, write_atomic
from runner.task.augmentation_grid import Preview, words
from runner.task.base import Task, tracking
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.recorder import describe
from runner.task.resources import Resources

SIDE = 144  # approximate pixels of an image's side in the pictures


class PreviewTask(Task):
    """Draw the pipeline, each item alone and, if regularization mixes images or targets, all together.

    images: rows; training images of different classes.
    draws: columns beside the original; each is a random draw.
    """

    ignores: ClassVar[frozenset[str]] = frozenset(
        [
            "surface",
            "optimizer",
            "schedule",
            "ensemble",
            "evaluation",
            "epochs",
            "batch_size",
            "lr_scale",
            "precision",
            "accumulate",
            "clip_grad_norm",
            "early_stopping",
            "checkpoint",
        ]
    )
    refuses: ClassVar[frozenset[str]] = frozenset({"surface"})
    columns: ClassVar[Mapping[str, str]] = {"pictures": "pictures_shown"}

    def __init__(self, images: Positive = 6, draws: Positive = 7):
        self.images, self.draws = images, draws

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Return the facts about a config; raises `ConfigError` if there is nothing to preview."""
        facts = resources.preflight(config)
        items, mixers = len(config["augmentation"]), mixing(resources, config)
        if not items and not mixers:
            raise ConfigError(
                "augmentation=[]: nothing to preview; list what shall be seen: 'augmentation=[crop,flip]'"
            )
        return replace(facts, steps=items + bool(items) + bool(mixers))

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Write preview.png, preview_ITEM.png for each item and, if there is mixing, preview_mixed.png."""
        begun, config = time.perf_counter(), job.config
        splits, nodes = resources.splits(config, device), config["augmentation"]
        pipeline, mixers = resources.stack(config, "augmentation"), mixing(resources, config)
        for transform in pipeline.values():
            transform.fit(splits.train, splits.size)
        normalize = Normalize(splits, device, torch.contiguous_format)
        preview = Preview(splits, normalize, config["seed"], self.images, self.draws, SIDE)
        pictures = {"preview": partial(preview.grid, pipeline, nodes)} if pipeline else {}
        pictures |= {f"preview_{name}": partial(preview.grid, {name: item}, nodes) for name, item in pipeline.items()}
        if mixers:
            pictures["preview_mixed"] = partial(mixed, preview, pipeline, mixers, config)
        with tracking(job) as tracker:
            for i, (name, draw) in enumerate(pictures.items()):
                image = draw()
                write_atomic(job.folder / f"{name}.png", png(image), durable=False)
                if tracker is not None:
                    tracker.picture(name.replace("_", "/", 1), 0, image)
                listener.progress(i + 1, len(pictures), {})
        files = [f"{name}.png" for name in pictures]
        yield {
            "status": "done",
            "pictures": files,
            "pictures_shown": ", ".join(files),
            "seconds": round(time.perf_counter() - begun, 3),
        }


def mixing(resources: Resources, config: dict[str, Any]) -> dict[str, Any]:
    """Return the regularization items that mix images or targets."""
    return {name: item for name, item in resources.stack(config, "regularization").items() if item.overrides("mix")}


def mixed(
    preview: Preview, pipeline: Mapping[str, Any], mixers: Mapping[str, Any], config: dict[str, Any]
) -> np.ndarray:
    """Return a picture of pipeline and mixing: each column is a batch; its targets are written below."""
    draws = generator(config["seed"], "preview of the stack", preview.images.device)
    columns, labels = [], []
    for _ in range(preview.draws):
        images, targets = preview.images, preview.labels
        for transform in pipeline.values():
            images = transform(images, draws)
        images = preview.normalize(images)
        for item in mixers.values():
            images, targets = item.mix(images, targets, len(preview.classes), draws)
        columns.append(preview.to_uint8(images))
        labels.append([describe(target, preview.classes) for target in targets.cpu()])
    titles = words(config["augmentation"], pipeline), words(config["regularization"], mixers)
    return preview.picture(
        torch.stack(columns, 1), ", ".join(filter(None, titles)), [list(row) for row in zip(*labels)]
    )
