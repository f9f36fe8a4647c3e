"""From a config to objects: the only caller of `instantiate()`, the list of trusted packages, the checks."""

import inspect
import json
import os
import pkgutil
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runner.context import Context
from runner.data.prepare import prepare
from runner.data.splits import Source, Splits
from runner.errors import ConfigError, did_you_mean
from runner.model.presets import preset
from runner.optimizer.groups import parameter_groups
from runner.option import Option
from runner.schedule.base import Timeline
from runner.schema import GROUPS, OWN_KEYS, STACKS, Config
from runner.steps import timeline

# What a `_target_` may name without `trust`; the object found must come from there as well, so that no path through
# a module's own imports (`runner.build.json...`) leads out.
TRUSTED = (
    "runner",
    "torch.optim",
    "torch.nn",
    "torchvision.models",
    "torchvision.transforms",
    "torchvision.ops",
)
OPTIONS_ELSEWHERE = ("runner.run",)  # `task=train`; of the runner's other modules an option is none: they write files
SMALL_STEP = 2e8  # operations of a batch's forward pass, below which one thread serves best (docs/benchmarks.md)
PHOTO_SIZES = (72, 64)  # resize, size: where the architecture has no preset
CUTTING = ("val_fraction", "split_seed", "limit", "per_class", "classes")  # keys of data that `prepare` takes
DATA_DEFAULTS = {key: field.default for key, field in GROUPS["data"].model_fields.items()}
# Arguments that the builder passes itself, by group.
GIVEN: dict[str, frozenset[str]] = {
    "model": frozenset({"in_channels", "num_classes", "image_size"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"timeline"}),
    "data": frozenset(GROUPS["data"].model_fields),
}


class Refused(ConfigError):
    """All that is wrong with one combination, a line each."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = lines


def nodes(config: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """`(group, path, node)` of every option and every item of a stack."""
    for group in Config.model_fields:
        if group in STACKS:
            for name, node in config[group].items():
                yield group, f"{group}.{name}", node
        elif isinstance(config[group], dict) and group not in ("early_stopping", "checkpoint", "log", "probe"):
            yield group, group, config[group]


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Types, ranges, targets and their arguments; the config with its values made exact (`lr=1` is 1.0).

    Raises `Refused` with every complaint.
    """
    lines = _typed(Config, config, "")
    for group, model in GROUPS.items():
        if isinstance(config.get(group), dict):
            lines += _typed(model, config[group], f"{group}.")
    if lines:
        raise Refused(lines)
    config = Config.model_validate(config).model_dump()
    for group, model in GROUPS.items():
        dumped = model.model_validate(config[group]).model_dump(exclude_unset=True)
        config[group] = dumped | {key: list(value) for key, value in dumped.items() if isinstance(value, tuple)}
    for group, path, node in nodes(config):
        lines += _bind(group, path, node, config["trust"])
    if lines:
        raise Refused(lines)
    return config


def _typed(model: type, values: dict[str, Any], prefix: str) -> list[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [_complaint(prefix, detail, model.model_fields) for detail in _one_a_key(error)]
    return []


def _one_a_key(error: ValidationError) -> list[Any]:
    """A union complains once a member; its members' words are joined."""
    by_key: dict[tuple, list] = {}
    for detail in said(error):
        key = tuple(part for part in detail["loc"] if not (isinstance(part, str) and _is_type_word(part)))
        by_key.setdefault(key, []).append(detail)
    return [
        details[0] | {"loc": key, "msg": " or ".join(dict.fromkeys(d["msg"] for d in details))}
        for key, details in by_key.items()
    ]


def _is_type_word(part: str) -> bool:
    return "[" in part or part in ("int", "float", "bool", "str", "is-instance")


def _complaint(prefix: str, detail: Any, fields: dict[str, Any]) -> str:
    key = prefix + ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        for part in detail["loc"][:-1]:
            fields = getattr(fields[part].annotation, "model_fields", {})
        return f"{key}: no such key{did_you_mean(detail['loc'][-1], fields)}"
    return f"{key}={shown(detail['input'])}: {detail['msg']}"


# pydantic's complaints in the words of somebody who types a config.
WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a word",
    "list_type": "must be a list, [A,B]",
    "tuple_type": "must be a list, [A,B]",
    "missing": "has too few values",
    "too_long": "has too many values",
    "none_required": "must be null",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "model_type": "has keys of its own: type them one by one",
    "dict_type": "has keys of its own: type them one by one",
}


def said(error: ValidationError) -> list[dict[str, Any]]:
    """pydantic's complaints, reworded."""
    found = []
    for detail in error.errors():
        words = WORDS.get(detail["type"])
        plain = detail["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
        found.append(detail | {"msg": words.format(**detail.get("ctx", {})) if words else plain})
    return found


def shown(value: Any) -> str:
    """A value as a user types it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(shown(item) for item in value) + "]"
    return str(value)


def locate(path: str, target: Any, trust: list[str]) -> Callable[..., Any]:
    """The object that a `_target_` names, if it is from a trusted package. Raises `ConfigError` otherwise."""
    if not isinstance(target, str) or target == "???":
        raise ConfigError(f"{path}._target_ is missing: give the dotted path of a class, {path}._target_=PACKAGE.CLASS")
    trusted = (*TRUSTED, *trust)
    if not _from(target, trusted):
        package = target.partition(".")[0]
        raise ConfigError(
            f"{path}._target_={target}: not from a trusted package ({', '.join(trusted)}); "
            f"if you trust it, add trust=[{package}]"
        )
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}._target_={target}: cannot be imported ({error})") from error
    home = getattr(found, "__module__", None) or type(found).__module__
    if not callable(found) or not _from(home, trusted):
        raise ConfigError(f"{path}._target_={target}: leads to {home}, which is not from a trusted package")
    group = path.partition(".")[0]
    if _from(home, ("runner",)) and not _from(home, (f"runner.{group}", *OPTIONS_ELSEWHERE)):
        raise ConfigError(f"{path}._target_={target}: is no option of {group}; those are in runner.{group}")
    return found


def _from(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _inner_targets(path: str, value: Any, trust: list[str]) -> Iterator[str]:
    """Complaints about `_target_`s below a node."""
    if isinstance(value, dict):
        if "_target_" in value:
            try:
                locate(path, value["_target_"], trust)
            except ConfigError as error:
                yield str(error)
        for key, inner in value.items():
            yield from _inner_targets(f"{path}.{key}", inner, trust)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _inner_targets(f"{path}.{i}", inner, trust)


def arguments(group: str, node: dict[str, Any]) -> dict[str, Any]:
    """The part of a node that is meant for its target."""
    own = OWN_KEYS.get(group, frozenset())
    return {key: value for key, value in node.items() if not key.startswith("_") and key not in own}


def _bind(group: str, path: str, node: Any, trust: list[str]) -> list[str]:
    """Complaints about a node: target, names of arguments, their types by the target's annotations."""
    if not isinstance(node, dict) or "_target_" not in node:
        if group in STACKS:
            name = path.rpartition(".")[2]
            return [f"{path}: '{name}' is not in the stack; add it ('{group}=[{name}]') or leave its keys out"]
        return [f"{group} is not chosen: {group}=OPTION"]
    lines = list(_inner_targets(path, node, trust))
    if lines:
        return lines
    target = locate(path, node["_target_"], trust)
    parameters = inspect.signature(target).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes = set(parameters) - GIVEN.get(group, frozenset())
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        hints = {}
    typed = GROUPS[group].model_fields if group in GROUPS else {}
    own = OWN_KEYS.get(group, frozenset())
    for key, value in node.items():
        if key == "_target_" or key in own:
            continue
        if key.startswith("_") or (key not in takes and not any_name):  # Hydra would obey or drop an underscore
            names = sorted(takes - {"self", "args", "kwargs"})
            lines.append(
                f"{path}.{key}={shown(value)}: no such key; it has {', '.join(names)}{did_you_mean(key, names)}"
            )
        elif (
            key in parameters
            and key not in typed
            and (wrong := _wrong_type(value, hints.get(key), parameters[key].default))
        ):
            lines.append(f"{path}.{key}={shown(value)}: {wrong}")
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if group == "optimizer":
        required.add("lr")  # which `lr_scale` and the schedule multiply
    missing = required - set(node) - GIVEN.get(group, frozenset())
    lines += [f"{path}.{key} is missing: {path}.{key}=VALUE" for key in sorted(missing)]
    lines += [f"{path}.{key} is missing: {path}.{key}=VALUE" for key, value in node.items() if value == "???"]
    return lines


def _wrong_type(value: Any, hint: Any, default: Any) -> str | None:
    """Why a value does not fit an annotation, or the type of the default where there is none."""
    if hint is None:
        if default in (inspect.Parameter.empty, None):
            return None
        hint = float if isinstance(default, float) else type(default)
        hint |= None
    if isinstance(value, bool) and "bool" not in str(hint) and hint is not Any:
        return f"must be {_words(hint)}"
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        details = [detail for detail in said(error) if detail["type"] != "is_instance_of"] or said(error)
        return " or ".join(dict.fromkeys(detail["msg"] for detail in details))
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return None
    return None


def _words(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a word"}.get(hint, str(hint).replace("typing.", ""))


@dataclass(frozen=True)
class Facts:
    """What the rehearsal of a combination found."""

    parameters: int
    trainable: int
    identity: str  # of the data's contents
    train_size: int
    steps: int
    flops: int = 0  # of one image's forward pass
    skipped: int = 0  # images that could not be read


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

    # -- data ---------------------------------------------------------------------------------------------------

    def splits(self, config: dict[str, Any], device: torch.device | None = None) -> Splits:
        """The data of a config, cut; loaded once for all configs that share it."""
        node = dict(config["data"])
        sizes = preset(config["model"])
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
        key = (source_key + json.dumps(cut, sort_keys=True), str(device))
        if key not in self._splits:
            if device is not None:
                self._splits[key] = self.splits(config).to(device)
            else:
                if source_key not in self._sources:
                    self._sources[source_key] = _make({"_target_": node["_target_"]} | given)
                self._splits[key] = prepare(self._sources[source_key], **cut)
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
        with torch.random.fork_rng():  # torch draws initial weights from its global generator
            torch.manual_seed(config["seed"])
            model = _make(node, **given)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: {node['_target_']} gives a {type(model).__name__}, not a torch.nn.Module")
        return model

    def stack(self, config: dict[str, Any], group: str) -> dict[str, Any]:
        """The items of a stack or pipeline, in order."""
        return {name: _make(node) for name, node in config[group].items()}

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
        scaled = [
            {key: value for key, value in group.items() if key != "lr_scale"} | {"lr": node["lr"] * group["lr_scale"]}
            for group in groups
        ]
        return _make(node, params=scaled)

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
        stack, pipeline = self.stack(config, "regularization"), self.stack(config, "augmentation")
        transfer, ensemble, evaluation = (_make(config[group]) for group in ("transfer", "ensemble", "evaluation"))
        length = timeline(config, len(splits.train))
        schedule = self.schedule(config, length)
        for transform in pipeline.values():
            transform.fit(splits.train, splits.size)
        if checks:
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
            )
            asked = [*stack.values(), *pipeline.values(), schedule, transfer, ensemble, evaluation]
            if lines := [line for item in asked if (line := item.check(context))]:
                raise Refused(lines)
        for item in stack.values():
            item.modify(model, noise)
        transfer.prepare(model)
        model.to(device)
        # Without any decay there is nothing to spare vectors from, and a second group would cost time each step.
        spare = config["optimizer"]["no_decay"] and config["optimizer"].get("weight_decay") != 0
        groups = parameter_groups(model, transfer.rates(model), spare)
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
        check_device(config)
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
                    logits, flops = _forward(parts.model, splits)
            except (NotImplementedError, RuntimeError):  # perhaps a model that needs real numbers
                parts = self.parts(config, splits, torch.device("cpu"), torch.Generator(), checks=True)
                logits, flops = _forward(parts.model, splits)
        except (
            ValueError,
            TypeError,
            RuntimeError,
        ) as error:  # torch's own objections; shapes that do not fit
            raise ConfigError(f"this combination cannot be built: {str(error).splitlines()[0]}") from error
        if tuple(logits.shape) != (2, len(splits.classes)):
            wanted = (2, len(splits.classes))
            raise ConfigError(f"model: gives {tuple(logits.shape)} for 2 images, not {wanted}, a logit for each class")
        counts = [(p.numel(), p.requires_grad) for p in parts.model.parameters()]
        return Facts(
            parameters=sum(n for n, _ in counts),
            trainable=sum(n for n, trains in counts if trains),
            identity=splits.identity,
            train_size=len(splits.train),
            steps=parts.timeline.steps,
            flops=flops,
            skipped=len(splits.skipped),
        )


def _forward(model: nn.Module, splits: Splits) -> tuple[torch.Tensor, int]:
    """Logits of two images, and the floating-point operations for one."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = model.eval()(torch.zeros(2, splits.channels, splits.size, splits.size))
    return logits, counter.get_total_flops() // 2


def threads(config: dict[str, Any], facts: Facts) -> int:
    """CPU threads of a run. `auto`: one where a step is too small to share, where a second gains nothing and, on a
    busy machine, makes the first wait; else every core."""
    if config["threads"] != "auto":
        return config["threads"]
    small = facts.flops * config["batch_size"] < SMALL_STEP
    return 1 if small else os.cpu_count() or 1


def _short(target: str) -> str:
    """The file that a target lies in: the option's name, as a rule."""
    return target.split(".")[-2]


def _make(node: dict[str, Any], **given: Any) -> Any:
    """The node's target, called. What is given does not pass through Hydra, which would copy or convert it."""
    return instantiate(node | {"_partial_": True}, _convert_="all")(**given)


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
