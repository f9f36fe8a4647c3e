"""`task=predict`: a folder of images in, a table of answers out."""

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
from runner.task.trained import PER_BATCH, Answering, forward, networks, origins, refuse, size

log = logging.getLogger(__name__)

FILE = "predictions.csv"
AT_ONCE = 512  # images in memory
LUMA = np.array([299, 587, 114], dtype=np.int64)  # ITU-R 601, thousandths: what Pillow calls grey


class PredictTask(Answering):
    """predictions.csv: file, class, its probability, and the probability of each class (`p_CLASS`).

    checkpoint: a finished run's folder, or its checkpoint.
    images: a folder; photos in folders below it count as well.
    """

    columns: ClassVar[Mapping[str, str]] = {"images": "images", "predictions": "predictions"}
    ignores: ClassVar[frozenset[str]] = Answering.ignores | {"task.images", "data"}
    refuses: ClassVar[frozenset[str]] = Answering.refuses | {"data"}

    def __init__(self, checkpoint: str | None = None, images: str | None = None):
        self.checkpoint, self.images = checkpoint, images

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Loads the networks, lists the photos. Raises `ConfigError`."""
        check_device(config)
        runs = self.load(resources, config)
        parameters, flops = size(runs)
        for network in networks(runs):
            if (channels := network.inputs.image_channels) not in (1, 3):
                raise ConfigError(
                    f"{runs[0].folder}: its network takes images of {channels} channels; photos have 3, or 1 where "
                    "they are grey"
                )
            refuse(resources, config, network, network.inputs.side, {})
        combination = self.combination(resources, config)
        if combination is not None and combination.tries:
            raise ConfigError(
                f"ensemble.runs={','.join(combination.runs)}: this ensemble is chosen on validation images; "
                "task=evaluate does that and saves what comes out: name its folder as task.checkpoint"
            )
        root, names = self._photos()
        hashes = cache.content_hashes(root, names, open_cache(config["data"]["cache_dir"]))
        contents = hashlib.sha256(
            "\n".join(f"{name} {known}" for name, known in zip(names, hashes)).encode()
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
        found = [
            (Path(where) / name).relative_to(root).as_posix()
            for where, _, names in os.walk(root, followlinks=True)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
        if not found:
            raise ConfigError(f"task.images={self.images}: no images there ({' '.join(sorted(SUFFIXES))})")
        return root, sorted(found)

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Reads the photos piece by piece; an unreadable one stays in the table, without an answer."""
        begun, config = time.perf_counter(), job.config
        runs = self.load(resources, config, device)
        average, asked = self.average(resources, config, runs), networks(runs)
        evaluations = [resources.evaluation(config) for _ in asked]
        for evaluation in evaluations:
            evaluation.begin([], generator(config["seed"], "evaluation", device))
        root, names = self._photos()
        classes, autocast = asked[0].inputs.classes, forward(config, device)
        rows: list[list[Any]] = []
        counts = dict.fromkeys(classes, 0)
        skipped: list[str] = []
        for start in range(0, len(names), AT_ONCE):
            piece = names[start : start + AT_ONCE]
            whole, splits = looks(root, piece, asked, job.threads, device)
            skipped += [name for name in piece if name not in whole]
            members = [
                Member(network.model, network.normalize, splits[kind(network)], evaluation)
                for network, evaluation in zip(asked, evaluations)
            ]
            found = dict(zip(whole, probabilities(members, autocast, average))) if whole else {}
            for name in piece:
                chances = found.get(name)
                answer = None if chances is None else classes[chances.index(max(chances))]
                rows.append([name, answer, max(chances), *chances] if chances else [name, *[None] * (len(classes) + 2)])
                if chances is not None:
                    counts[answer] += 1
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
            "parameters": sum(p.numel() for network in asked for p in network.parameters()),
            "seconds": round(time.perf_counter() - begun, 3),
        }


def kind(network: TrainedNetwork) -> tuple[int, int]:
    """How a network sees photos: channels, and pixels of the shorter side."""
    return network.inputs.image_channels, network.inputs.side


def looks(
    root: Path, names: Sequence[str], asked: Sequence[TrainedNetwork], threads: int, device: torch.device
) -> tuple[list[str], dict[tuple[int, int], Split]]:
    """The photos that can be read, and these as each kind of network sees them."""
    pixels: dict[int, list[np.ndarray | None]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for side in {network.inputs.side for network in asked}:
            pixels[side] = list(pool.map(functools.partial(_decoded, root, side), names))
    whole = [i for i, image in enumerate(next(iter(pixels.values()))) if image is not None]
    splits = {}
    for channels, side in {kind(network) for network in asked} if whole else ():
        images = np.stack([pixels[side][i] for i in whole])
        images = torch.from_numpy(images if channels == 3 else grey(images))
        splits[channels, side] = ResidentSplit(images, torch.zeros(len(whole), dtype=torch.int64)).to(device)
    return [names[i] for i in whole], splits


def _decoded(root: Path, side: int, name: str) -> np.ndarray | None:
    try:
        return decode(str(root / name), side)
    except OSError as error:
        log.warning("%s: %s", root / name, error)
        return None


def grey(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 3, H, W] to [N, 1, H, W], as Pillow's mode L."""
    mixed = (images.astype(np.int64) * LUMA[:, None, None]).sum(1, keepdims=True)
    return ((mixed + 500) // 1000).astype(np.uint8)


@torch.no_grad()
def probabilities(members: Sequence[Member], autocast: Autocast, average: Average) -> list[list[float]]:
    """Of each image, of each class, all members together."""
    first, found = members[0], []
    for _, _, passes in log_probs(members, first.split, first.normalize, autocast, PER_BATCH, first.evaluation):
        found.append(ensembles(torch.stack([mean_log(one) for one in passes]), average)[-1].exp())
    return torch.cat(found).tolist()
