"""From a checked config to objects: the only caller of `instantiate()`, and the rehearsal."""

import contextlib
import copy
import functools
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from torch import nn

from runner.check import Refused, arguments, locate, shown
from runner.compiled import lacking
from runner.context import Context
from runner.data.prepare import prepare
from runner.data.splits import Source, Splits
from runner.errors import ConfigError
from runner.fuse.alike import apart, structure
from runner.graph.capture import unfit
from runner.inputs import sample
from runner.model.fitted import Fitted
from runner.model.own_noise import own
from runner.model.presets import preset
from runner.optimizer.groups import parameter_groups, scaled
from runner.option import Option
from runner.passes import Passed, passed
from runner.schedule.base import Timeline
from runner.schema import GROUPS
from runner.steps import timeline
from runner.transfer.cache import Store
from runner.transfer.servable import refusal

if TYPE_CHECKING:
    from runner.fuse.group import Group

SMALL_STEP = 2e8  # operations of a batch's forward pass, below which one thread serves best (docs/benchmarks.md)
PHOTO_SIZES = (72, 64)  # resize, size: where the architecture has no preset
CUTTING = ("val_fraction", "split_seed", "limit", "per_class", "classes")  # keys of data that `prepare` takes
DATA_DEFAULTS = {key: field.default for key, field in GROUPS["data"].model_fields.items()}


@dataclass(frozen=True)
class Facts:
    """What the rehearsal of a combination found."""

    parameters: int
    trainable: int
    identity: str  # of the data's contents
    train_size: int
    steps: int
    flops: int = 0  # of one image's forward pass
    step_flops: int = 0  # of what of it a training step computes: where features are kept, all from there on
    skipped: int = 0  # images that could not be read
    stages: tuple[Any, ...] = ()  # what training will do to each (`runner.transfer.finetune.Row`)
    weights: str = ""  # where they came from, and which did not fit
    network: str = ""  # a hash of its structure
    members: int = 1  # runs of an ensemble, side by side
    apart: str = ""  # why it can share a program with no other run, where it cannot
    mixing: tuple[str, ...] = ()  # items of the stack that mix images or targets
    modifying: tuple[str, ...] = ()  # and those that change the network, and may bring noise


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
        self._sources: dict[str, Source] = {}
        self._splits: dict[tuple[str, str], Splits] = {}
        self._rehearsed: dict[str, Facts] = {}
        self._passed: dict[str, Passed] = {}
        self.features = Store()
        self.group: Group | None = None  # jobs that this process trains side by side, as long as it does

    # -- data ---------------------------------------------------------------------------------------------------

    def splits(self, config: dict[str, Any], device: torch.device | None = None) -> Splits:
        """The data of a config, cut; loaded once for all configs that share it."""
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
        origin = "" if weights is None else weights.digest
        key = (source_key + json.dumps(cut, sort_keys=True) + origin, str(device))
        if key not in self._splits:
            if device is not None:
                self._splits[key] = self.splits(config).to(device)
            else:
                if source_key not in self._sources:
                    self._sources[source_key] = _make({"_target_": node["_target_"]} | given)
                splits = prepare(self._sources[source_key], **cut)
                if weights is not None and weights.preset is not None:
                    splits = splits.normalized_as(weights.preset.mean, weights.preset.std)
                self._splits[key] = splits
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
            model = _make(node, **given)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: {node['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
        return model

    def transfer(self, config: dict[str, Any]) -> Any:
        """From which weights training starts, and which of them it moves."""
        return _make(config["transfer"])

    def stack(self, config: dict[str, Any], group: str) -> dict[str, Any]:
        """The items of a stack or pipeline, in order."""
        return {name: _make(node) for name, node in config[group].items()}

    def ensemble(self, config: dict[str, Any]) -> Any:
        """What is averaged: weights of a run, or answers of several networks."""
        return _make(config["ensemble"])

    def evaluation(self, config: dict[str, Any]) -> Any:
        """How a trained network is asked."""
        return _make(config["evaluation"])

    def task(self, config: dict[str, Any]) -> Any:
        """What a run does: rehearses a config, executes a job."""
        return _make(config["task"])

    def schedule(self, config: dict[str, Any], length: Timeline) -> Any:
        """The multiplier of the rates over a run of this length."""
        return _make(config["schedule"], timeline=length)

    def surface(self, config: dict[str, Any]) -> Any:
        """The function of the plane that `task=surface` walks on."""
        return _make(config["surface"])

    def optimizer(self, config: dict[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over parameter groups, whose rates are its own times `lr_scale` times the group's."""
        node = {"_target_": config["optimizer"]["_target_"]} | arguments("optimizer", config["optimizer"])
        node["lr"] = node["lr"] * config["lr_scale"]
        return _make(node, params=[scaled(group, node) for group in groups])

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
            channels=splits.channels,
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

    # -- rehearsal ----------------------------------------------------------------------------------------------

    def rehearse(self, config: dict[str, Any]) -> Facts:
        """Constructs a checked combination once, without training: its objects' own objections are raised here."""
        device = check_device(config)
        if config["compile"] is True and (missing := lacking(device)):
            raise ConfigError(f"compile=true: {missing}; install it, or use compile=auto")
        if config["cuda_graph"] is True and device.type != "cuda":
            raise ConfigError(
                f"cuda_graph=true: device={config['device']} is no CUDA device here ({device}); use cuda_graph=auto"
            )
        splits = self.splits(config)
        if config["batch_size"] > len(splits.train) and not config["optimizer"]["full_batch"]:
            raise ConfigError(
                f"batch_size={config['batch_size']}: larger than the training split of {len(splits.train)} images; "
                f"use batch_size={len(splits.train)} or less"
            )
        if config["accumulate"] > config["batch_size"]:
            raise ConfigError(
                f"accumulate={config['accumulate']}: more micro-batches than images (batch_size={config['batch_size']})"
            )
        if splits.val is None:
            needs = [
                f"{key}={value} needs validation data, and data.val_fraction is 0"
                for key, value, needed in (
                    (
                        "checkpoint.select",
                        config["checkpoint"]["select"],
                        config["checkpoint"]["select"] == "best",
                    ),
                    (
                        "early_stopping.patience",
                        config["early_stopping"]["patience"],
                        config["early_stopping"]["patience"],
                    ),
                )
                if needed
            ]
            if needs:
                raise Refused(needs)
        varies = {"seed", "name", "log", "probe", "checkpoint", "dry_run", "rerun", "early_stopping"}
        key = json.dumps({k: v for k, v in config.items() if k not in varies}, sort_keys=True) + splits.identity
        if key not in self._rehearsed:
            self._rehearsed[key] = self._rehearse(config, splits)
        return self._rehearsed[key]

    def _rehearse(self, config: dict[str, Any], splits: Splits) -> Facts:
        try:
            try:
                with torch.device("meta"):
                    parts = self.parts(config, splits, torch.device("meta"), None, checks=True)
                    found = self._passes(config, parts, splits)
            except (NotImplementedError, RuntimeError):  # perhaps a model that needs real numbers
                parts = self.parts(config, splits, torch.device("cpu"), torch.Generator(), checks=True)
                found = self._passes(config, parts, splits)
        except (
            ValueError,
            TypeError,
            RuntimeError,
        ) as error:  # torch's own objections; shapes that do not fit
            raise ConfigError(f"this combination cannot be built: {str(error).splitlines()[0]}") from error
        if found.answers != (2, len(splits.classes)):
            wanted = (2, len(splits.classes))
            raise ConfigError(f"model: gives {found.answers} for 2 images, not {wanted}, a logit for each class")
        if config["cuda_graph"] is True and (reason := unfit(parts.optimizer, config)):
            raise ConfigError(f"cuda_graph=true: {reason}; use cuda_graph=auto")
        rows = parts.transfer.table(parts.model)
        weights = parts.transfer.weights(config["model"])
        return Facts(
            parameters=sum(row.parameters for row in rows),
            trainable=sum(row.trainable for row in rows),
            identity=splits.identity if weights is None else f"{splits.identity} from {weights.digest}",
            stages=tuple(rows),
            weights="" if parts.transfer.audit is None else parts.transfer.audit.line,
            train_size=len(splits.train),
            steps=parts.timeline.steps,
            flops=found.flops,
            step_flops=found.step_flops,
            skipped=len(splits.skipped),
            network=f"{structure(parts.model)} {found.cut}",
            members=parts.ensemble.count,
            apart=apart(parts, config),
            mixing=_with_hook(parts.stack, "mix"),
            modifying=_with_hook(parts.stack, "modify"),
        )

    def _passes(self, config: dict[str, Any], parts: Parts, splits: Splits) -> Passed:
        """What passes through the network found; the same for all combinations whose networks are the same."""
        about = {key: config[key] for key in ("model", "regularization", "augmentation", "transfer", "compile")}
        about["images"] = splits.channels, splits.size, splits.identity
        key = json.dumps(about, sort_keys=True)
        if key not in self._passed:
            self._passed[key] = passed(config, parts, splits)
        return self._passed[key]


def _with_hook(stack: dict[str, Any], hook: str) -> tuple[str, ...]:
    """Items that do something there."""
    return tuple(name for name, item in stack.items() if item.overrides(hook))


def threads(config: dict[str, Any], facts: Facts, at_once: int) -> int:
    """CPU threads of a run, of which `at_once` are done side by side. `auto`: one where a step is too small to share,
    where a second gains nothing and, on a busy machine, makes the first wait; else the run's share of the cores."""
    if config["threads"] != "auto":
        return config["threads"]
    small = facts.flops * config["batch_size"] < SMALL_STEP
    return 1 if small else max(1, cores() // max(1, at_once))


def cores() -> int:
    """Cores that this process may use: its share of them where torchrun started several processes."""
    mates = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    with contextlib.suppress(AttributeError):  # not on macOS
        return max(1, len(os.sched_getaffinity(0)) // mates)
    return max(1, (os.cpu_count() or 1) // mates)


def _short(target: str) -> str:
    """The file that a target lies in: the option's name, as a rule."""
    return target.split(".")[-2]


def _make(node: dict[str, Any], **given: Any) -> Any:
    """The node's target, called. Hydra finds it and makes what is nested in its arguments; plain values and what is
    given do not pass through Hydra, which would convert and copy them for milliseconds."""
    keys = {key: value for key, value in node.items() if key != "_target_"}
    keys = instantiate(keys, _convert_="all") if _nested(keys) else copy.deepcopy(keys)
    return _callable(node["_target_"])(**keys | given)


@functools.cache
def _callable(target: str) -> Callable[..., Any]:
    """Hydra's word on a target, and on every call of it."""
    return instantiate({"_target_": target, "_partial_": True})


def _nested(value: Any) -> bool:
    """Whether a `_target_` lies in it."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_nested, value.values()))
    return isinstance(value, list) and any(map(_nested, value))


def check_device(config: dict[str, Any]) -> torch.device:
    """The device that `device` names. Raises `ConfigError` where it is not there."""
    name = config["device"]
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if name.startswith("cuda"):
        number = int(name.partition(":")[2] or 0)
        if not cuda or number >= torch.cuda.device_count():
            have = f"there are {torch.cuda.device_count()}" if cuda else "no CUDA device is here"
            raise ConfigError(f"device={name}: {have}; use device=auto or device=cpu")
    if name == "mps" and not mps:
        raise ConfigError("device=mps: no Apple GPU is here; use device=auto or device=cpu")
    return torch.device(name)
