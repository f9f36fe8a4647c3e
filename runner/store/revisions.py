"""Revisions: changes of the runner after which a config gives other numbers, and keys that were added later.

A fingerprint holds the revisions that apply to its run, so that results from before a change are not reused after it.
It leaves out an added key at its default value, so that results from before the key are still reused.
Importing this module imports no torch, because `status` and the report use it to name runs of older revisions.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Revision:
    """Change of the runner that changes results."""

    key: str  # dotted key of the config: the choice with other results
    number: int  # 2 for the first change; 1, the original, is never written
    applies: Callable[[Config, int | None], bool]  # (checked config, channels of the images or None)
    change: str  # what changed, in one sentence


@dataclass(frozen=True)
class Added:
    """Key that was added after runs had been recorded; its default changes no result."""

    key: str  # dotted key of the config (of a new group or part: its name); with `target`, an argument's name
    default: Any  # of a group or part: a mapping of all its keys
    target: str = ""  # the `_target_` with the new argument, anywhere in the config; empty: a key of the config


ADDED: tuple[Added, ...] = ()
TRAIN = "runner.task.train.Train"
FORMER = {TRAIN: "runner.run.Train"}  # moved `_target_`s, hashed under their old names
NETWORK_GROUPS = ("model", "regularization", "augmentation")  # taken from the config in a loaded checkpoint


def _part(config: Config, key: str) -> Mapping[str, Any]:
    """Return a part of a config; empty where a file on disk lacks it."""
    part = config.get(key)
    return part if isinstance(part, Mapping) else {}


def _trains(config: Config) -> bool:
    """Return whether the run's task trains; a task of the user's own may."""
    target = str(_part(config, "task").get("_target_", TRAIN))
    return target in (TRAIN, FORMER[TRAIN]) or not target.startswith("runner.")


def _selects(config: Config, channels: int | None) -> bool:
    return _trains(config) and _part(config, "checkpoint").get("select") == "auto"


# data sets with class names that equal their indices, or are words
NAMED = ("runner.data.digits.load", "runner.data.vision.load", "runner.data.vision_photos.load")
CYCLES = ("runner.schedule.warm_restarts.WarmRestarts", "runner.schedule.cyclic.Cyclic")


def _has_cycles(config: Config, channels: int | None) -> bool:
    return _part(config, "schedule").get("_target_") in CYCLES


def _loads(config: Config) -> bool:
    transfer = _part(config, "transfer")
    return transfer.get("weights") is not None and transfer.get("_target_") != "runner.transfer.finetune.Scratch"


def _loads_otherwise(config: Config, channels: int | None) -> bool:
    name = str(_part(config, "model").get("name", ""))
    return _loads(config) and (channels == 1 or name.startswith(("densenet", "googlenet", "inception", "vit_")))


def _may_name_by_number(config: Config, channels: int | None) -> bool:
    data = _part(config, "data")
    classes = data.get("classes") or []
    return data.get("_target_") not in NAMED and any(not isinstance(item, str) for item in classes)


REVISIONS: tuple[Revision, ...] = (
    Revision(
        "checkpoint.select",
        2,
        _selects,
        "auto is the last epoch where the schedule comes to rest, else the epoch of the lowest validation loss; it was "
        "the epoch of the best validation accuracy",
    ),
    Revision(
        "transfer",
        2,
        _loads_otherwise,
        "grey images are repeated for weights of color; GoogLeNet, Inception, DenseNet, ViT answer as in torchvision",
    ),
    Revision("data.classes", 2, _may_name_by_number, "a number is an index only where no class has one for its name"),
    Revision(
        "schedule", 2, _has_cycles, "the last cycle of warm_restarts and cyclic ends with the run, at its low point"
    ),
)


def revisions(config: Config, channels: int | None = None) -> dict[str, int]:
    """Return the latest revision of each choice of a run, by key; unchanged choices are left out.

    config: checked and resolved, as in a run's `config.yaml`. channels: of the images, None where unknown.
    """
    latest: dict[str, int] = {}
    for revision in REVISIONS:
        if revision.applies(config, channels):
            latest[revision.key] = max(revision.number, latest.get(revision.key, 1))
    return latest


def applying(
    config: Config, channels: int | None, ignored: Collection[str] = (), origins: Iterable[Mapping[str, Any]] = ()
) -> dict[str, int]:
    """Return the latest revisions of a run's own choices and of the trained networks that it loads, by key.

    ignored: parts of the config that its task does not read. origins: as in `result.json`, see `Origin`.
    """
    latest = {key: number for key, number in revisions(config, channels).items() if not covers(ignored, key)}
    for origin in origins:
        for key, number in revisions({**config, **origin["config"]}, origin["channels"]).items():
            if covers(NETWORK_GROUPS, key):
                latest[key] = max(number, latest.get(key, 1))
    return latest


def older(result: Mapping[str, Any], config: Config) -> dict[str, int]:
    """Return the choices of a recorded run with a later revision today: key -> recorded revision.

    result: the run's `result.json`. config: its `config.yaml`.
    """
    if result.get("revision_list") == revision_list():
        return {}
    recorded, data = result.get("revisions") or {}, result.get("data") or {}
    is_training = (result.get("choices") or {}).get("task", "train") == "train"
    ignored = result.get("ignores", () if is_training else ("checkpoint",))  # older results lack `ignores`
    current = applying(config, data.get("channels"), ignored, result.get("origins") or ())
    return {key: recorded.get(key, 1) for key, number in current.items() if recorded.get(key, 1) < number}


def revision_list() -> str:
    """Return the digest of the list: a run recorded under the same list has no older revisions."""
    text = json.dumps([[revision.key, revision.number, revision.change] for revision in REVISIONS])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def covers(parts: Iterable[str], key: str) -> bool:
    """Return whether a dotted key is one of these parts of the config, or lies inside one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def without_added(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config without the keys of `ADDED` that are at their defaults."""
    remaining = {}
    for key, value in node.items():
        value = without_added(value, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        if isinstance(value, list):
            value = [without_added(item, f"{prefix}{key}.") if isinstance(item, Mapping) else item for item in value]
        names = {("", f"{prefix}{key}"), (str(node.get("_target_", "")), key)}
        if not any((added.target, added.key) in names and _text(value) == _text(added.default) for added in ADDED):
            remaining[key] = value
    return remaining


def _text(value: Any) -> str:
    """Return a value's exact text: 1 and 1.0 are one number, 1 and true are not the same."""
    return json.dumps(_numbers(value))


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return list(map(_numbers, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value
