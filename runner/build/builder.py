"""From a checked config to objects."""

import functools
import inspect
import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from runner.build.check import Refused, arguments, shown
from runner.core.context import Context
from runner.data.prepare import prepare
from runner.data.splits import Source, Splits
from runner.core.startup.torch_compiler import plain_optimizers
from runner.core.errors import ConfigError
from runner.data.normalize import sample
from runner.core.memo import Recent
from runner.model.fitted import Fitted
from runner.model.library_noise import own
from runner.model.presets import preset
from runner.optimizer.param_groups import parameter_groups, scaled
from runner.core.option import Option
from runner.task.preflight import Facts, Rehearsals
from runner.schedule.base import Timeline
from runner.core.schema import GROUPS
from runner.core.steps import timeline
from runner.core.targets import construct, locate
from runner.execution.features.cache import Store
from runner.execution.features.eligible import refusal
from runner.transfer.stem import as_trained

if TYPE_CHECKING:
    from runner.execution.choose.group import Group

SOURCES, CUTS = 4, 8  # data sets that stay loaded, and ways to cut them; each counts again on a device
PHOTO_SIZES = (72, 64)  # resize, size: where the architecture has no preset
CUTTING = ("val_fraction", "split_seed", "limit", "per_class", "classes")  # keys of data that `prepare` takes
DATA_DEFAULTS = {key: field.default for key, field in GROUPS["data"].model_fields.items()}


@dataclass
class Parts:
    """The objects of one run, on its device."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    stack: dict[str, Any]
    pipeline: dict[str, Any]
    transfer: Any
    ensemble: Any
    evaluation: Any
    splits: Splits
    timeline: Timeline


class Builder:
    """Builds what checked configs say; keeps what runs share: the data, and what was rehearsed."""

    def __init__(self) -> None:
        # What a sweep over keys of the data leaves behind is given up, and made again where a later run needs it.
        self._sources: MutableMapping[str, Source] = Recent(SOURCES)
        self._cut: MutableMapping[str, Splits] = Recent(CUTS)  # normalized by their own statistics
        self._splits: MutableMapping[tuple[str, str], Splits] = Recent(CUTS)
        self._rehearsals = Rehearsals(self)
        self.features = Store()
        self.group: Group | None = None  # jobs that this process trains side by side, as long as it does

    # -- data ---------------------------------------------------------------------------------------------------

    def splits(self, config: dict[str, Any], device: torch.device | None = None) -> Splits:
        """Return the data of a config, cut and normalized; loaded once for all configs that share it."""
        node = dict(config["data"])
        source = config["transfer"].get("weights", "asked")  # a class of the user's own may have them elsewhere
        weights = None if source is None else self.transfer(config).weights(config["model"])
        sizes = preset(config["model"]) if weights is None else weights.preset
        resize, size = (sizes.resize, sizes.size) if sizes else PHOTO_SIZES
        node["resize"] = resize if node["resize"] == "auto" else node["resize"]
        node["size"] = min(size, node["resize"]) if node["size"] == "auto" else node["size"]
        if node["size"] > node["resize"]:
            raise ConfigError(
                f"data.size={node['size']} is larger than data.resize={node['resize']}, of which it is a cut"
            )
        target = locate("data", node["_target_"], config["trust"])
        takes = inspect.signature(target).parameters
        unused = [
            f"data.{key}={shown(config['data'][key])}"
            for key, plain in DATA_DEFAULTS.items()
            if key not in takes and key not in CUTTING and config["data"][key] != plain
        ]
        if unused:
            raise ConfigError(f"{', '.join(unused)}: data={_short(node['_target_'])} has no use for it; leave it out")
        given = {key: value for key, value in node.items() if key in takes}
        source_key = json.dumps([node["_target_"], given], sort_keys=True)
        cut = {key: node[key] for key in CUTTING}
        cut_key = source_key + json.dumps(cut, sort_keys=True)
        if cut_key not in self._cut:
            if source_key not in self._sources:
                self._sources[source_key] = construct("data", {"_target_": node["_target_"]} | given, config["trust"])
            self._cut[cut_key] = prepare(self._sources[source_key], **cut)
        splits = self._cut[cut_key]
        if weights is not None:
            splits = as_trained(splits, weights, functools.partial(self.model, config, splits))
        key = (cut_key + json.dumps([splits.mean.tolist(), splits.std.tolist()]), str(device))
        if key not in self._splits:
            self._splits[key] = splits if device is None else splits.to(device)
        return self._splits[key]

    # -- objects ------------------------------------------------------------------------------------------------

    def model(self, config: dict[str, Any], splits: Splits) -> nn.Module:
        """A fresh network for the data, its weights drawn from the seed."""
        given = {
            "in_channels": splits.channels,
            "num_classes": len(splits.classes),
            "image_size": splits.size,
        }
        node = config["model"]
        takes = inspect.signature(locate("model", node["_target_"], config["trust"])).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            given = {key: value for key, value in given.items() if key in takes}
        with torch.random.fork_rng(devices=[]):  # torch draws initial weights from its global generator, on the CPU
            torch.default_generator.manual_seed(config["seed"])
            model = construct("model", node, config["trust"], **given)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: {node['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
        return model

    def transfer(self, config: dict[str, Any]) -> Any:
        """From which weights training starts, and which of them it moves."""
        return _option(config, "transfer")

    def stack(self, config: dict[str, Any], group: str) -> dict[str, Any]:
        """The items of a stack or pipeline, in order."""
        return {
            name: construct(f"{group}.{name}", node, config.get("trust", [])) for name, node in config[group].items()
        }

    def ensemble(self, config: dict[str, Any]) -> Any:
        """What is averaged: weights of a run, or answers of several networks."""
        return _option(config, "ensemble")

    def evaluation(self, config: dict[str, Any]) -> Any:
        """How a trained network is asked."""
        return _option(config, "evaluation")

    def task(self, config: dict[str, Any]) -> Any:
        """What a run does: rehearses a config, executes a job."""
        return _option(config, "task")

    def schedule(self, config: dict[str, Any], length: Timeline) -> Any:
        """The multiplier of the rates over a run of this length."""
        return _option(config, "schedule", timeline=length)

    def surface(self, config: dict[str, Any]) -> Any:
        """The function of the plane that `task=surface` walks on."""
        return _option(config, "surface")

    def optimizer(self, config: dict[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, whose rates are its own times `lr_scale` times the group's."""
        plain_optimizers()
        node = {"_target_": config["optimizer"]["_target_"]} | arguments("optimizer", config["optimizer"])
        node["lr"] = node["lr"] * config["lr_scale"]
        return construct("optimizer", node, config["trust"], params=[scaled(group, node) for group in groups])

    def parts(
        self,
        config: dict[str, Any],
        splits: Splits,
        device: torch.device,
        noise: torch.Generator | None,
        checks: bool = False,
    ) -> Parts:
        """Everything that a run owns. With `checks` also every item's word on the combination."""
        model = self.model(config, splits)
        if isinstance(model, Fitted) and device.type != "meta":
            model.fit(sample(splits, model.look_at))
        stack, pipeline = self.stack(config, "regularization"), self.stack(config, "augmentation")
        transfer = self.transfer(config)
        ensemble, evaluation = self.ensemble(config), self.evaluation(config)
        transfer.load(model, config["model"], splits.classes)
        own(model, noise)
        length = timeline(config, len(splits.train))
        schedule = self.schedule(config, length)
        with torch.device(splits.train.labels.device):  # not the meta device of a rehearsal
            for transform in pipeline.values():
                transform.fit(splits.train, splits.size)
        context = Context(
            config=config,
            model=model,
            channels=splits.train.shape[0],
            in_channels=splits.channels,
            stored_size=splits.train.shape[1],
            image_size=splits.size,
            num_classes=len(splits.classes),
            train_size=len(splits.train),
            has_validation=splits.val is not None,
            stack=stack,
            pipeline=pipeline,
            transfer=transfer,
            schedule=schedule,
        )
        lines = []
        for item in stack.values():
            if checks and (line := item.check(context)):
                lines.append(line)
            else:
                item.modify(model, noise)
        transfer.prepare(model)
        if checks:
            asked = [*pipeline.values(), schedule, transfer, ensemble, evaluation]
            lines += [line for option in asked if (line := option.check(context))]
            lines += [line] if (line := refusal(context)) else []
        if lines:
            raise Refused(lines)
        model.to(device)
        # Without any decay there is nothing to spare vectors from, and a second group would cost time each step.
        spare = config["optimizer"]["no_decay"] and config["optimizer"].get("weight_decay") != 0
        groups = parameter_groups(model, transfer.rates(model), spare, config["optimizer"]["norm_bias_lr_scale"])
        optimizer = self.optimizer(config, groups)
        if checks and isinstance(optimizer, Option) and (line := optimizer.check(context)):
            raise Refused([line])
        return Parts(
            model,
            optimizer,
            schedule,
            stack,
            pipeline,
            transfer,
            ensemble,
            evaluation,
            splits,
            length,
        )

    def rehearse(self, config: dict[str, Any]) -> Facts:
        """What is known of a checked combination before it runs. Raises `ConfigError` for what cannot be built."""
        return self._rehearsals.of(config)


def _short(target: str) -> str:
    """The file that a target lies in: the option's name, as a rule."""
    return target.split(".")[-2]


def _option(config: dict[str, Any], group: str, **arguments: Any) -> Any:
    """Return the object of a group's option."""
    return construct(group, config[group], config.get("trust", []), **arguments)
