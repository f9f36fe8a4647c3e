"""Base of the tasks on trained networks: load the networks, and data in each network's input format."""

import contextlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from runner.build.load import load
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import Average
from runner.core.startup.torch_compiler import flop_counter
from runner.core.targets import locate
from runner.core.text import few
from runner.data.splits import Splits
from runner.ensemble.checkpoints import Checkpoints, has_checkpoint, match_runs
from runner.ensemble.none import NoEnsemble
from runner.evaluation.base import Autocast
from runner.evaluation.trained import LoadedRun, TrainedNetwork
from runner.store.ledger import read
from runner.task.base import Task
from runner.task.preflight import Facts, SourceRuns
from runner.task.resources import Resources
from runner.train.precision import precision

PER_BATCH = 64  # images; this many fit in memory wherever a network was trained
TRAINED = ("data", "model", "optimizer", "schedule", "regularization", "augmentation", "transfer")  # groups
PARTS = (*TRAINED, "epochs", "lr_scale", "batch_size", "accumulate", "clip_grad_norm")  # keys that affect training


class TrainedNetworksTask(Task):
    """Base of tasks on trained networks: those of `task.checkpoint` or of `ensemble=checkpoints`."""

    refuses: ClassVar[frozenset[str]] = frozenset(
        [
            *("surface", "model", "optimizer", "schedule", "regularization", "augmentation", "transfer"),
            *("epochs", "lr_scale", "batch_size", "accumulate", "clip_grad_norm"),
        ]
    )
    ignores: ClassVar[frozenset[str]] = refuses | {
        *("early_stopping", "checkpoint"),
        *("task.checkpoint", "ensemble.runs"),  # the fingerprint has the weights' digests instead
    }

    checkpoint: str | None

    def choices(self, chosen: dict[str, Any], typed: list[str], facts: Facts) -> dict[str, Any]:
        """Return group -> option of this task and of the networks' training; a list where networks differ."""
        own = super().choices(chosen, typed, facts)
        keys = {word.partition("=")[0].lstrip("+") for word in typed}
        trained = {group: _distinct(facts.origins, group) for group in TRAINED if group not in keys}
        return own | {group: choice for group, choice in trained.items() if choice is not None}

    def combination(self, resources: Resources, config: dict[str, Any]) -> Checkpoints | None:
        """Return the ensemble of finished runs, None for `task.checkpoint`. Raises `ConfigError` unless one is set."""
        ensemble = resources.ensemble(config)
        if isinstance(ensemble, Checkpoints):
            if self.checkpoint is not None:
                raise ConfigError(
                    f"task.checkpoint={self.checkpoint} with ensemble.runs={','.join(ensemble.runs)}: choose one of "
                    "them"
                )
            return ensemble
        if not isinstance(ensemble, NoEnsemble):
            raise ConfigError(
                f"ensemble={type(ensemble).__name__.lower()}: is made in training; leave it out (a checkpoint of one "
                "answers as an ensemble by itself), or use ensemble=checkpoints"
            )
        if self.checkpoint is None:
            raise ConfigError(
                "task.checkpoint is missing: name a finished run, task.checkpoint=outputs/NAME/RUN (several: "
                "ensemble=checkpoints 'ensemble.runs=outputs/NAME/*')"
            )
        return None

    def load(self, resources: Resources, config: dict[str, Any], device: torch.device | str = "cpu") -> list[LoadedRun]:
        """Return the runs to evaluate, with their networks."""
        combination = self.combination(resources, config)
        runs = [load(path, device, config["trust"]) for path in self.paths(combination)]
        return runs if combination is None else combination.select_runs(runs)

    def paths(self, combination: Checkpoints | None) -> list[Path]:
        """Return the paths of the runs to evaluate. Raises `ConfigError`."""
        # `task.checkpoint` may be a pattern, because names of runs have characters that Hydra wants quoted
        if combination is not None:
            return combination.paths()
        paths = match_runs("task.checkpoint", self.checkpoint, has_checkpoint)
        if len(paths) > 1:
            raise ConfigError(
                f"task.checkpoint={self.checkpoint}: names {len(paths)} runs; name one, or all of them by "
                "ensemble=checkpoints 'ensemble.runs=...'"
            )
        return paths

    def average(self, resources: Resources, config: dict[str, Any], runs: Sequence[LoadedRun]) -> Average:
        """Return the average to use: that of the typed ensemble, else that of the trained one."""
        combination = self.combination(resources, config)
        return runs[0].average if combination is None else combination.average


def origins(runs: Iterable[LoadedRun]) -> tuple[SourceRuns, ...]:
    """Return the origins of the networks of runs; runs that differ only in their seed share one."""
    known: dict[str, SourceRuns] = {}
    for run in runs:
        record = read(run.folder)
        result = {} if record is None or record.result["training"] != run.training else record.result
        for network in run.networks:
            config = {key: network.config[key] for key in PARTS if key in network.config}
            origin = SourceRuns((run.folder.name,), _chosen(network, result), config, network.inputs.channels)
            key = json.dumps([origin.choices, origin.config, origin.channels], sort_keys=True)
            names = dict.fromkeys((*known[key].runs, run.folder.name) if key in known else origin.runs)
            known[key] = replace(origin, runs=tuple(names))
    return tuple(known.values())


def _chosen(network: TrainedNetwork, result: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a network was trained with.

    They come from its checkpoint, else from the run's result, else from the class names.
    """
    modules = {
        group: _option(str(node["_target_"])) if "_target_" in node else list(node)
        for group in TRAINED
        if isinstance(node := network.config.get(group), dict)
    }
    sources = [modules, result.get("choices"), network.about.get("choices")]
    known = [names for names in sources if isinstance(names, dict)]
    return {
        group: choice
        for group in modules
        for choice in [names[group] for names in known if isinstance(names.get(group), str | list)][-1:]
    }


def _option(target: str) -> str:
    """Return the usual name of a target's option: the module of our own options, the class of a library's."""
    *_, module, name = ("." + target).split(".")
    return module if target.startswith("runner.") else name.lower()


def _distinct(known: Iterable[SourceRuns], group: str) -> Any:
    """Return the option that all origins have; the list of options if they differ; None without any."""
    choices = [origin.choices[group] for origin in known if group in origin.choices]
    different = [choice for i, choice in enumerate(choices) if choice not in choices[:i]]
    return different if len(different) > 1 else next(iter(different), None)


def networks(runs: Iterable[LoadedRun]) -> list[TrainedNetwork]:
    """Return the networks of all runs."""
    return [network for run in runs for network in run.networks]


def size(runs: Iterable[LoadedRun]) -> tuple[int, int]:
    """Return the parameters of all networks, and the floating-point operations for one image."""
    parameters = flops = 0
    for network in networks(runs):
        inputs = network.inputs
        with torch.no_grad(), flop_counter() as counter:
            network(torch.zeros(1, inputs.image_channels, inputs.size, inputs.size))
        parameters += sum(p.numel() for p in network.parameters())
        flops += counter.get_total_flops()
    return parameters, flops


def load_data(
    resources: Resources, config: dict[str, Any], network: TrainedNetwork, device: torch.device | None = None
) -> Splits:
    """Return the splits in a network's input format, photos in its size. Raises `ConfigError` if they do not fit."""
    inputs, data = network.inputs, config["data"]
    accepted = inspect.signature(locate("data", data["_target_"], config["trust"])).parameters
    sizes = {key: value for key, value in (("resize", inputs.side), ("size", inputs.size)) if key in accepted}
    data = data | {key: value for key, value in sizes.items() if data[key] == "auto"}
    splits = resources.splits(config | {"data": data}, device)
    if splits.classes != inputs.classes:
        raise ConfigError(
            f"data: has the classes {few(splits.classes)}, and the network knows {few(inputs.classes)}: they must be "
            "the same, in the same order (data.classes=[...] chooses and orders them)"
        )
    channels, side, _ = splits.test.shape
    if channels not in (1, inputs.image_channels):  # gray images are repeated
        raise ConfigError(f"data: images of {channels} channels, and the network takes {inputs.image_channels}")
    if side < inputs.size:
        raise ConfigError(f"data: images of {side} pixels a side, and the network takes {inputs.size}")
    return splits


def check_evaluation(
    resources: Resources, config: dict[str, Any], network: TrainedNetwork, side: int, pipeline: Mapping[str, Any]
) -> None:
    """Check that the evaluation works with a network and images of `side` pixels. Raises `ConfigError`."""
    context = Context(
        config=config,
        model=network.model,
        channels=network.inputs.image_channels,
        in_channels=network.inputs.channels,
        stored_size=side,
        image_size=network.inputs.size,
        num_classes=len(network.inputs.classes),
        train_size=0,
        has_validation=False,
        stack={},
        pipeline=dict(pipeline),
    )
    if line := resources.evaluation(config).check(context):
        raise ConfigError(line)


def autocast_context(config: dict[str, Any], device: torch.device) -> Autocast:
    """Return the autocast context of the forward pass."""
    dtype = precision(config, device)
    is_fp32 = dtype == torch.float32
    return contextlib.nullcontext if is_fp32 else lambda: torch.autocast(device.type, dtype)
