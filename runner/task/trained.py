"""What the tasks of trained networks share: which networks answer, and how each sees the images."""

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
from runner.ensemble.checkpoints import Checkpoints, keeps_networks, matching
from runner.ensemble.none import NoEnsemble
from runner.evaluation.base import Autocast
from runner.evaluation.trained import Loaded, TrainedNetwork
from runner.store.ledger import read
from runner.task.base import Task
from runner.task.preflight import Facts, SourceRuns
from runner.task.resources import Resources
from runner.train.precision import precision

PER_BATCH = 64  # images that surely fit where a network was trained
TRAINED = ("data", "model", "optimizer", "schedule", "regularization", "augmentation", "transfer")  # groups
PARTS = (*TRAINED, "epochs", "lr_scale", "batch_size", "accumulate", "clip_grad_norm")  # of a config, likewise


class Answering(Task):
    """A task of trained networks: those of `task.checkpoint`, or of `ensemble=checkpoints`."""

    refuses: ClassVar[frozenset[str]] = frozenset(
        [
            *("surface", "model", "optimizer", "schedule", "regularization", "augmentation", "transfer"),
            *("epochs", "lr_scale", "batch_size", "accumulate", "clip_grad_norm"),
        ]
    )
    ignores: ClassVar[frozenset[str]] = refuses | {
        *("early_stopping", "checkpoint"),
        *("task.checkpoint", "ensemble.runs"),  # the weights' contents stand for them
    }

    checkpoint: str | None

    def choices(self, chosen: dict[str, Any], typed: list[str], facts: Facts) -> dict[str, Any]:
        """Return what this task was asked with, and what the networks that answer were trained with: of several that
        differ, a list."""
        own = super().choices(chosen, typed, facts)
        keys = {word.partition("=")[0].lstrip("+") for word in typed}
        trained = {group: _distinct(facts.origins, group) for group in TRAINED if group not in keys}
        return own | {group: choice for group, choice in trained.items() if choice is not None}

    def combination(self, resources: Resources, config: dict[str, Any]) -> Checkpoints | None:
        """The ensemble of finished runs that is asked for. Raises `ConfigError` where it is not clear who answers."""
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

    def load(self, resources: Resources, config: dict[str, Any], device: torch.device | str = "cpu") -> list[Loaded]:
        """The runs that answer."""
        combination = self.combination(resources, config)
        runs = [load(path, device, config["trust"]) for path in self.paths(combination)]
        return runs if combination is None else combination.agree(runs)

    def paths(self, combination: Checkpoints | None) -> list[Path]:
        """Where they are. `task.checkpoint` may be a pattern, for names of runs hold signs that Hydra wants quoted."""
        if combination is not None:
            return combination.paths()
        found = matching("task.checkpoint", self.checkpoint, keeps_networks)
        if len(found) > 1:
            raise ConfigError(
                f"task.checkpoint={self.checkpoint}: names {len(found)} runs; name one, or all of them by "
                "ensemble=checkpoints 'ensemble.runs=...'"
            )
        return found

    def average(self, resources: Resources, config: dict[str, Any], runs: Sequence[Loaded]) -> Average:
        """What is averaged: as the ensemble was trained, or as it is now typed."""
        combination = self.combination(resources, config)
        return runs[0].average if combination is None else combination.average


def origins(runs: Iterable[Loaded]) -> tuple[SourceRuns, ...]:
    """Return what the networks of runs were trained with; runs that differ in nothing but their seed are one."""
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
    """Return the options that a network was trained with: as its checkpoint names them, else as the run's result does,
    else by its classes."""
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
    """Return what an option of this target is called, as a rule: of ours its module, of a library's its class."""
    *_, module, name = ("." + target).split(".")
    return module if target.startswith("runner.") else name.lower()


def _distinct(known: Iterable[SourceRuns], group: str) -> Any:
    """Return the option that all have; the list of options where they differ; None where there is none."""
    choices = [origin.choices[group] for origin in known if group in origin.choices]
    different = [choice for i, choice in enumerate(choices) if choice not in choices[:i]]
    return different if len(different) > 1 else next(iter(different), None)


def networks(runs: Iterable[Loaded]) -> list[TrainedNetwork]:
    """All that answer."""
    return [network for run in runs for network in run.networks]


def size(runs: Iterable[Loaded]) -> tuple[int, int]:
    """Parameters of all networks, and the floating-point operations of their answers to one image."""
    parameters = flops = 0
    for network in networks(runs):
        inputs = network.inputs
        with torch.no_grad(), flop_counter() as counter:
            network(torch.zeros(1, inputs.image_channels, inputs.size, inputs.size))
        parameters += sum(p.numel() for p in network.parameters())
        flops += counter.get_total_flops()
    return parameters, flops


def seen_by(
    resources: Resources, config: dict[str, Any], network: TrainedNetwork, device: torch.device | None = None
) -> Splits:
    """The data as a network takes it: photos in the size that it was made for. Raises `ConfigError` where it cannot."""
    inputs, data = network.inputs, config["data"]
    takes = inspect.signature(locate("data", data["_target_"], config["trust"])).parameters
    sizes = {key: value for key, value in (("resize", inputs.side), ("size", inputs.size)) if key in takes}
    data = data | {key: value for key, value in sizes.items() if data[key] == "auto"}
    splits = resources.splits(config | {"data": data}, device)
    if splits.classes != inputs.classes:
        raise ConfigError(
            f"data: has the classes {few(splits.classes)}, and the network knows {few(inputs.classes)}: they must be "
            "the same, in the same order (data.classes=[...] chooses and orders them)"
        )
    channels, side, _ = splits.test.shape
    if channels not in (1, inputs.image_channels):  # grey images are repeated
        raise ConfigError(f"data: images of {channels} channels, and the network takes {inputs.image_channels}")
    if side < inputs.size:
        raise ConfigError(f"data: images of {side} pixels a side, and the network takes {inputs.size}")
    return splits


def refuse(
    resources: Resources, config: dict[str, Any], network: TrainedNetwork, side: int, pipeline: Mapping[str, Any]
) -> None:
    """Raises `ConfigError` where the evaluation cannot work with a network and images of `side` pixels."""
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


def forward(config: dict[str, Any], device: torch.device) -> Autocast:
    """The precision of the forward pass."""
    dtype = precision(config, device)
    plain = dtype == torch.float32
    return contextlib.nullcontext if plain else lambda: torch.autocast(device.type, dtype)
