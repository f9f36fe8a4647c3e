"""`task=predict`: classify the images of a folder and write a table of predictions."""

import csv
import functools
import hashlib
import io
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from runner.core.devices import check_device
from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.schema import Average
from runner.core.seeds import generator
from runner.data import photo_cache as cache
from runner.data.decode import SUFFIXES, decode
from runner.data.splits import ResidentSplit, Split
from runner.evaluation.base import Autocast, Member
from runner.evaluation.evaluate import log_probs
from runner.evaluation.metrics import ensembles, mean_log
from runner.evaluation.trained import TrainedNetwork
from runner.store.cache import open_cache
from runner.store.files import write_atomic
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.task.trained import (
    PER_BATCH,
    TrainedNetworksTask,
    autocast_context,
    check_evaluation,
    networks,
    origins,
    size,
)

log = logging.getLogger(__name__)

FILE = "predictions.csv"
AT_ONCE = 512  # images in memory at once
LUMA = np.array([299, 587, 114], dtype=np.int64)  # ITU-R 601, in thousandths, as in Pillow's mode L


class PredictTask(TrainedNetworksTask):
    """Write predictions.csv: file, class, its probability, and the probability of each class (`p_CLASS`).

    checkpoint: folder of a finished run, or its checkpoint file.
    images: a folder; photos in its subfolders are included.
    """

    columns: ClassVar[Mapping[str, str]] = {"images": "images", "predictions": "predictions"}
    ignores: ClassVar[frozenset[str]] = TrainedNetworksTask.ignores | {"task.images", "data"}
    refuses: ClassVar[frozenset[str]] = TrainedNetworksTask.refuses | {"data"}

    def __init__(self, checkpoint: str | None = None, images: str | None = None):
        self.checkpoint, self.images = checkpoint, images

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Return the facts about networks and photos. Raises `ConfigError`."""
        check_device(config)
        runs = self.load(resources, config)
        parameters, flops = size(runs)
        for network in networks(runs):
            if (channels := network.inputs.image_channels) not in (1, 3):
                raise ConfigError(
                    f"{runs[0].folder}: its network takes images of {channels} channels; photos have 3, or 1 where "
                    "they are grey"
                )
            check_evaluation(resources, config, network, network.inputs.side, {})
        combination = self.combination(resources, config)
        if combination is not None and combination.needs_bench:
            raise ConfigError(
                f"ensemble.runs={','.join(combination.runs)}: this ensemble is chosen on validation images; "
                "task=evaluate does that and saves what comes out: name its folder as task.checkpoint"
            )
        root, names = self._photos()
        hashes = cache.content_hashes(root, names, open_cache(config["data"]["cache_dir"]))
        contents = hashlib.sha256(
            "\n".join(f"{name} {digest}" for name, digest in zip(names, hashes)).encode()
        ).hexdigest()
        return Facts(
            parameters=parameters,
            trainable=0,
            identity=" ".join([contents, *(run.digest for run in runs)]),
            train_size=len(names),
            steps=-(-len(names) // AT_ONCE),
            flops=flops,
            channels=networks(runs)[0].inputs.channels,
            origins=origins(runs),
        )

    def _photos(self) -> tuple[Path, list[str]]:
        if self.images is None:
            raise ConfigError("task.images is missing: a folder of images, task.images=FOLDER")
        root = Path(self.images).expanduser()
        if not root.is_dir():
            raise ConfigError(f"task.images={self.images}: no such folder")
        paths = [
            (Path(where) / name).relative_to(root).as_posix()
            for where, _, names in os.walk(root, followlinks=True)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
        if not paths:
            raise ConfigError(f"task.images={self.images}: no images there ({' '.join(sorted(SUFFIXES))})")
        return root, sorted(paths)

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Predict the photos in chunks; an unreadable photo stays in the table without a prediction."""
        begun, config = time.perf_counter(), job.config
        runs = self.load(resources, config, device)
        average, loaded = self.average(resources, config, runs), networks(runs)
        evaluations = [resources.evaluation(config) for _ in loaded]
        for evaluation in evaluations:
            evaluation.begin([], generator(config["seed"], "evaluation", device))
        root, names = self._photos()
        classes, autocast = loaded[0].inputs.classes, autocast_context(config, device)
        rows: list[list[Any]] = []
        counts = dict.fromkeys(classes, 0)
        skipped: list[str] = []
        for start in range(0, len(names), AT_ONCE):
            chunk = names[start : start + AT_ONCE]
            readable, splits = load_photos(root, chunk, loaded, job.threads, device)
            skipped += [name for name in chunk if name not in readable]
            members = [
                Member(network.model, network.normalize, splits[input_format(network)], evaluation)
                for network, evaluation in zip(loaded, evaluations)
            ]
            predictions = dict(zip(readable, probabilities(members, autocast, average))) if readable else {}
            for name in chunk:
                probs = predictions.get(name)
                label = None if probs is None else classes[probs.index(max(probs))]
                rows.append([name, label, max(probs), *probs] if probs else [name, *[None] * (len(classes) + 2)])
                if probs is not None:
                    counts[label] += 1
            listener.progress(min(start + AT_ONCE, len(names)), len(names), {})
        if skipped:
            log.warning("%d of %d images cannot be read, '%s' first", len(skipped), len(names), skipped[0])
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([["file", "class", "probability", *(f"p_{name}" for name in classes)], *rows])
        write_atomic(job.folder / FILE, buffer.getvalue())
        yield {
            "status": "done",
            "images": len(names),
            "skipped": skipped,
            "answers": counts,
            "predictions": FILE,
            "parameters": sum(p.numel() for network in loaded for p in network.parameters()),
            "seconds": round(time.perf_counter() - begun, 3),
        }


def input_format(network: TrainedNetwork) -> tuple[int, int]:
    """Return the format of a network's photos: channels, and pixels of the shorter side."""
    return network.inputs.image_channels, network.inputs.side


def load_photos(
    root: Path, names: Sequence[str], loaded: Sequence[TrainedNetwork], threads: int, device: torch.device
) -> tuple[list[str], dict[tuple[int, int], Split]]:
    """Return the names of the readable photos, and a split of these photos for each input format."""
    pixels: dict[int, list[np.ndarray | None]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for side in {network.inputs.side for network in loaded}:
            pixels[side] = list(pool.map(functools.partial(_decoded, root, side), names))
    readable = [i for i, image in enumerate(next(iter(pixels.values()))) if image is not None]
    splits = {}
    for channels, side in {input_format(network) for network in loaded} if readable else ():
        images = np.stack([pixels[side][i] for i in readable])
        images = torch.from_numpy(images if channels == 3 else grey(images))
        splits[channels, side] = ResidentSplit(images, torch.zeros(len(readable), dtype=torch.int64)).to(device)
    return [names[i] for i in readable], splits


def _decoded(root: Path, side: int, name: str) -> np.ndarray | None:
    try:
        return decode(str(root / name), side)
    except OSError as error:
        log.warning("%s: %s", root / name, error)
        return None


def grey(images: np.ndarray) -> np.ndarray:
    """Return images as gray levels, uint8 [N, 3, H, W] to [N, 1, H, W], as Pillow's mode L."""
    mixed = (images.astype(np.int64) * LUMA[:, None, None]).sum(1, keepdims=True)
    return ((mixed + 500) // 1000).astype(np.uint8)


@torch.no_grad()
def probabilities(members: Sequence[Member], autocast: Autocast, average: Average) -> list[list[float]]:
    """Return the class probabilities of each image, [N][K], of all members together."""
    first, probs = members[0], []
    for _, _, passes in log_probs(members, first.split, first.normalize, autocast, PER_BATCH, first.evaluation):
        probs.append(ensembles(torch.stack([mean_log(member) for member in passes]), average)[-1].exp())
    return torch.cat(probs).tolist()
