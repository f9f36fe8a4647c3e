"""Fingerprint: a hash of all that can change a run's result. Slug: the run's name in words."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from runner.core.schema import EVALUATION, NOT_IDENTITY
from runner.core.targets import TRUSTED
from runner.store.revisions import FORMER, NETWORK_GROUPS, covers, without_added
from runner.store.sources import Code, code

LENGTH = 10  # hexadecimal digits of a fingerprint
LONGEST_SLUG = 100  # bytes; file names have at most 255
PLAIN = "auto"  # hashed in place of fp32, which `precision=auto` meant everywhere but on a GPU

Pair = tuple[str, str]  # (fingerprint of the run, fingerprint of its training)


def fingerprints(
    config: dict[str, Any],
    contents: str,
    ignored: frozenset[str],
    revised: Mapping[str, int] = MappingProxyType({}),
    code: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Pair:
    """Return the fingerprints of the whole run and of its training alone.

    config: checked, its precision resolved for the run's device.
    contents: hash of the data's contents, in place of the paths they were read from.
    ignored: parts of the config that the run's task does not read.
    revised: the revisions that apply (`runner.store.revisions`).
    code: digests of the user's own source (`runner.store.sources`).
    Without revisions and code, the hash equals that of versions that knew neither.
    """
    precision = PLAIN if config["precision"] == "fp32" else config["precision"]
    return _pair(config | {"precision": precision}, contents, ignored, revised, code)


def earlier(
    config: dict[str, Any],
    contents: str,
    ignored: frozenset[str],
    revised: Mapping[str, int] = MappingProxyType({}),
    code: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Pair | None:
    """Return the fingerprints that the run had when precision was hashed as typed; None where they are the same.

    A typed `fp32` was hashed as itself, an `auto` that meant bf16 as `auto`.
    """
    spelling = {"fp32": "fp32", "bf16": "auto"}.get(config["precision"])
    if spelling is None or "precision" in ignored:
        return None
    return _pair(config | {"precision": spelling}, contents, ignored, revised, code)


def own_code(config: dict[str, Any], ignored: frozenset[str], origins: Iterable[Mapping[str, Any]] = ()) -> Code:
    """Return the digests of the user's own classes that a run calls, also those of trained networks that it loads."""
    digests = code({group: node for group, node in config.items() if group not in ignored}, TRUSTED)
    for origin in origins:
        for group, added in code({group: origin["config"].get(group) for group in NETWORK_GROUPS}, TRUSTED).items():
            digests[group] = digests.get(group, {}) | added
    return digests


def _pair(
    config: dict[str, Any],
    contents: str,
    ignored: frozenset[str],
    revised: Mapping[str, int],
    code: Mapping[str, Mapping[str, str]],
) -> Pair:
    parts = without_added(_without(config, NOT_IDENTITY | ignored))
    if "task" in parts:
        target = parts["task"].get("_target_")
        parts["task"] = parts["task"] | {"_target_": FORMER.get(target, target)}
    trained = {key: value for key, value in parts.items() if key not in EVALUATION}
    extras = {"revisions": dict(revised), "code": {group: dict(digests) for group, digests in code.items()}}
    trained_extras = {
        name: {k: v for k, v in values.items() if not covers(EVALUATION, k)} for name, values in extras.items()
    }
    whole, training = (
        _hash(keys | {name: values for name, values in added.items() if values}, contents)
        for keys, added in ((parts, extras), (trained, trained_extras))
    )
    return whole, training


def _without(config: dict[str, Any], left_out: frozenset[str], prefix: str = "") -> dict[str, Any]:
    return {
        key: _without(value, left_out, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in left_out
    }


def _hash(keys: dict[str, Any], contents: str) -> str:
    # stacks as lists, because their order matters
    ordered = {
        key: list(value.items()) if key in ("regularization", "augmentation") else value for key, value in keys.items()
    }
    # integral floats as integers, because an option's own keys may be typed as 1.0 or 1
    exact = json.loads(
        json.dumps([ordered, contents]), parse_float=lambda text: int(x) if (x := float(text)).is_integer() else x
    )
    text = json.dumps(exact, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def slug(overrides: list[str]) -> str:
    """Return the typed overrides as part of a folder's name."""
    parts = []
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+")
        if {key, key.partition(".")[0]} & NOT_IDENTITY or key.startswith("hydra") or key == "experiment":
            continue
        parts.append(f"{key.partition('.')[2] or key}={value}")
    text = re.sub(r"[^\w.,=+%-]+", "_", ",".join(parts).replace("[", "").replace("]", ""))
    return text.encode()[:LONGEST_SLUG].decode(errors="ignore").strip("_,") or "defaults"
