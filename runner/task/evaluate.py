"""`task=evaluate`: metrics of trained networks on any split or on another data set."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from runner.build.about import check_options
from runner.build.load import read
from runner.core.devices import check_device
from runner.core.errors import ConfigError
from runner.core.listener import Listener
from runner.core.seeds import generator
from runner.data.splits import Split, Splits
from runner.ensemble.batch_norm import batch_norms, estimate
from runner.ensemble.checkpoints import Bench
from runner.evaluation.base import Autocast, Member
from runner.evaluation.evaluate import evaluate, examine
from runner.evaluation.standard import Standard
from runner.evaluation.trained import TrainedNetwork
from runner.model.noise import sampled
from runner.store import checkpoint as files
from runner.store.about import describe, settings
from runner.task.base import tracking
from runner.task.ensemble_facts import compare_members, write_facts
from runner.task.job import Job
from runner.task.preflight import Facts
from runner.task.resources import Resources
from runner.task.trained import (
    PER_BATCH,
    TrainedNetworksTask,
    autocast_context,
    check_evaluation,
    load_data,
    networks,
    origins,
    size,
)
from runner.tracking.pictures import confusion_matrix

MACHINE_KEYS = ("download", "cache_dir", "resident", "budget_gb", "workers")  # of data; never from a checkpoint


class EvaluateTask(TrainedNetworksTask):
    """Compute accuracy, loss, calibration and the other test metrics; for an ensemble also its members'.

    checkpoint: folder of a finished run, or its checkpoint file.
    split: of the run's data, or of the data set that is typed (`data=...`, with the same classes).
    """

    columns: ClassVar[Mapping[str, str]] = {
        "accuracy": "accuracy",
        "loss": "loss",
        "calibration error": "calibration_error",
        "networks": "networks",
    }

    def __init__(self, checkpoint: str | None = None, split: Literal["test", "val", "train"] = "test"):
        self.checkpoint, self.split = checkpoint, split

    def complete(self, config: dict[str, Any], typed: list[str]) -> dict[str, Any]:
        """Return the config with the data of the (first) network's training, unless `data=` is typed.

        Typed keys of data take precedence. Keys of the machine, such as `cache_dir`, always come from this command.
        """
        keys = {word.partition("=")[0].lstrip("+") for word in typed}
        if "data" in keys:
            return config
        first = self.paths(self.combination(Resources(), config))[0]
        trained_on = settings(describe(read(first)["abouts"][0], first), first)["data"]
        kept = {key: value for key, value in config["data"].items() if f"data.{key}" in keys or key in MACHINE_KEYS}
        config = config | {"data": trained_on | kept}
        check_options(first, config, ("data",))
        return config

    def preflight(self, resources: Resources, config: dict[str, Any]) -> Facts:
        """Return the facts about networks and data; raises `ConfigError` if they do not fit each other."""
        check_device(config)
        runs = self.load(resources, config)
        parameters, flops = size(runs)
        for network in networks(runs):
            splits = load_data(resources, config, network)
            pipeline, side = resources.stack(network.config, "augmentation"), splits.test.shape[1]
            check_evaluation(resources, config, network, side, pipeline)
        split = self._of(splits, config)
        return Facts(
            parameters=parameters,
            trainable=0,
            identity=" ".join([splits.identity, *(run.digest for run in runs)]),
            train_size=len(splits.train),
            steps=-(-len(split) // PER_BATCH),
            flops=flops,
            skipped=len(splits.skipped),
            channels=splits.channels,
            origins=origins(runs),
        )

    def _of(self, splits: Splits, config: dict[str, Any]) -> Split:
        split = getattr(splits, self.split)
        if split is None:
            raise ConfigError(
                f"task.split={self.split}: this data has none (data.val_fraction={config['data']['val_fraction']})"
            )
        return split

    def work(
        self, job: Job, resources: Resources, listener: Listener, device: torch.device
    ) -> Iterator[dict[str, Any]]:
        """Evaluate; write ensemble.png for members, and save a combination of runs as a checkpoint."""
        begun, config = time.perf_counter(), job.config
        runs = self.load(resources, config, device)
        combination, average = self.combination(resources, config), self.average(resources, config, runs)
        members: list[Member] = []
        for run in runs:
            for network in run.networks:
                splits = load_data(resources, config, network, device)
                pipeline = resources.stack(network.config, "augmentation")
                for transform in pipeline.values():
                    transform.fit(splits.train, splits.size)
                evaluation = resources.evaluation(config)
                evaluation.begin(list(pipeline.values()), generator(config["seed"], "evaluation", device))
                split = self._of(splits, config)
                members.append(Member(network.model, network.normalize, split, evaluation, run.folder.name))
        autocast, count = autocast_context(config, device), len(splits.classes)

        def test(group: Sequence[Member]) -> Any:
            first = group[0]
            return examine(group, first.split, first.normalize, autocast, PER_BATCH, count, first.evaluation, average)

        averaged: list[Member] = []  # networks whose weights were averaged
        if combination is not None:
            members, averaged = combination.combine(members, bench(splits, config["seed"], autocast))
        examined = test(members)
        accuracies = [test([member]).accuracy for member in averaged]
        facts = compare_members(examined.accuracy, accuracies) if averaged else examined.ensemble
        if combination is not None:
            facts |= {"runs": [member.name for member in averaged or members]}
            save(job, members, networks(runs))
        metrics = examined.numbers(splits.classes)
        with tracking(job) as tracker:
            if tracker is not None:
                shown = {f"{self.split}/{key}": value for key, value in metrics.items() if isinstance(value, float)}
                tracker.scalars(0, shown)
                picture = confusion_matrix(examined.confusion.numpy(), list(splits.classes))
                tracker.picture(f"{self.split}/confusion", 0, picture)
            if facts is not None:
                write_facts(facts, self.split, job.folder, tracker, 0)
        yield {
            "status": "done",
            **{f"{self.split}_{key}": value for key, value in metrics.items()},
            **{key: metrics[key] for key in ("accuracy", "loss", "calibration_error")},  # whichever the split
            "networks": len(members),
            "confusion": examined.confusion.tolist(),
            "ensemble": facts,
            "parameters": sum(p.numel() for member in members for p in member.model.parameters()),
            "data": {
                "identity": splits.identity,
                self.split: len(members[0].split),
                "classes": list(splits.classes),
                "skipped": list(splits.skipped),
            },
            "seconds": round(time.perf_counter() - begun, 3),
        }


def bench(splits: Splits, seed: int, autocast: Autocast) -> Bench:
    """Return the functions that combinations need: validation accuracy and estimation of batch-norm statistics."""
    device, classes = splits.train.device, len(splits.classes)

    def accuracy(member: Member) -> float:
        return evaluate([member.model], splits.val, member.normalize, autocast, PER_BATCH, classes, Standard()).accuracy

    def estimate_norms(model: nn.Module, member: Member) -> None:
        if batch_norms(model.train()):
            order = torch.randperm(len(splits.train), generator=generator(seed, "batch norm statistics")).to(device)
            images = min(len(order), PER_BATCH)
            rows = order[: len(order) // images * images].view(-1, images)
            with sampled(model, generator(seed, "noise beside batch norm statistics", device)), autocast():
                estimate(model, (member.normalize(batch) for batch, _ in splits.train.batches(rows)))
        model.eval()

    return Bench(None if splits.val is None else accuracy, estimate_norms)


def save(job: Job, members: Sequence[Member], loaded: Sequence[TrainedNetwork]) -> None:
    """Save the combined members as a checkpoint like a run's; a weight average takes the first network's `about`."""
    about_of = {id(network.model): network.about for network in loaded}
    ensemble = {"ensemble": job.config["ensemble"]}
    abouts = [about_of.get(id(member.model), loaded[0].about) for member in members]
    abouts = [json.dumps(about | {"config": about["config"] | ensemble}) for about in abouts]
    state = {
        "training": job.fingerprint,
        "fingerprint": job.fingerprint,
        "about": abouts[0],
        "abouts": abouts,
        "runs": [],
        "members": [member.model.state_dict() for member in members],
    }
    files.save(job.folder / files.FILE, state)
