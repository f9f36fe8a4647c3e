"""Revisions: the list of changes after which a config gives other numbers than before.

A fingerprint holds the revisions that apply to its run, so that a folder written before a change does not answer for
a run after it. Importing this module imports no torch: `status` and the report name runs of older revisions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Revision:
    """One change of the runner's own numbers."""

    key: str  # of the config, dotted: the choice whose numbers changed
    number: int  # 2 for the first change: 1 is what was there at first, and is never written
    applies: Callable[[Config, int | None], bool]  # to a checked config; channels of the images, None where unknown
    change: str  # what changed, in one sentence


NAMED = ("runner.data.digits.load", "runner.data.vision.load", "runner.data.vision_photos.load")  # index or words
CYCLES = ("runner.schedule.warm_restarts.WarmRestarts", "runner.schedule.cyclic.Cyclic")


def _has_cycles(config: Config, channels: int | None) -> bool:
    return config.get("schedule", {}).get("_target_") in CYCLES


def _loads(config: Config) -> bool:
    transfer = config.get("transfer", {})
    return transfer.get("weights") is not None and transfer.get("_target_") != "runner.transfer.finetune.Scratch"


def _loads_otherwise(config: Config, channels: int | None) -> bool:
    name = str(config.get("model", {}).get("name", ""))
    return _loads(config) and (channels == 1 or name.startswith(("densenet", "googlenet", "inception", "vit_")))


def _may_name_by_number(config: Config, channels: int | None) -> bool:
    data = config.get("data", {})
    kept = data.get("classes") or []
    return data.get("_target_") not in NAMED and any(not isinstance(item, str) for item in kept)


REVISIONS: tuple[Revision, ...] = (
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
    """Return the latest revision of each choice of a run, by key; a choice that never changed is left out.

    config: checked and resolved, as in a run's `config.yaml`. channels: of the images, None where unknown.
    """
    latest: dict[str, int] = {}
    for revision in REVISIONS:
        if revision.applies(config, channels):
            latest[revision.key] = max(revision.number, latest.get(revision.key, 1))
    return latest
