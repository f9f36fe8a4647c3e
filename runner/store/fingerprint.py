"""Identify runs: a hash of all that can change a result, and the run's name in words."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from runner.core.schema import EVALUATION, NOT_IDENTITY
from runner.core.targets import TRUSTED
from runner.store.revisions import ASKED, FORMER, covers, without_added
from runner.store.sources import Code, code

LENGTH = 10  # hexadecimal digits of a fingerprint
LONGEST_SLUG = 100  # bytes: names of files end at 255


PLAIN = "auto"  # how fp32 is hashed: what `precision=auto` gave everywhere but on a GPU

Pair = tuple[str, str]  # fingerprint, and that of the training alone


def fingerprints(
    config: dict[str, Any],
    contents: str,
    ignored: frozenset[str],
    revised: Mapping[str, int] = MappingProxyType({}),
    code: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Pair:
    """Return `(fingerprint, training)`: of the whole run, and of its training alone.

    config: checked, its precision resolved for the run's device.
    contents: the identity of the data's contents, which stands for the paths they were read from.
    ignored: parts of the config that do not matter to the run's task.
    revised: the revisions that apply (`runner.store.revisions`).
    code: digests of the user's own source (`runner.store.sources`).
    Without any of both, the hash is what it was before there were such.
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
    """Return the pair that the same run had when precision was hashed as typed, where that is another: a typed `fp32`
    as itself, an `auto` that was bf16 as `auto`."""
    spelling = {"fp32": "fp32", "bf16": "auto"}.get(config["precision"])
    if spelling is None or "precision" in ignored:
        return None
    return _pair(config | {"precision": spelling}, contents, ignored, revised, code)


def own_code(config: dict[str, Any], ignored: frozenset[str], origins: Iterable[Mapping[str, Any]] = ()) -> Code:
    """Return the digests of the user's own classes that a run calls, those of the networks that it asks among them."""
    digests = code({group: node for group, node in config.items() if group not in ignored}, TRUSTED)
    for origin in origins:
        for group, known in code({group: origin["config"].get(group) for group in ASKED}, TRUSTED).items():
            digests[group] = digests.get(group, {}) | known
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
    more = {"revisions": dict(revised), "code": {group: dict(known) for group, known in code.items()}}
    fewer = {what: {k: v for k, v in values.items() if not covers(EVALUATION, k)} for what, values in more.items()}
    whole, training = (
        _hash(own | {what: values for what, values in extra.items() if values}, contents)
        for own, extra in ((parts, more), (trained, fewer))
    )
    return whole, training


def _without(config: dict[str, Any], left_out: frozenset[str], prefix: str = "") -> dict[str, Any]:
    return {
        key: _without(value, left_out, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in config.items()
        if f"{prefix}{key}" not in left_out
    }


def _hash(what: dict[str, Any], contents: str) -> str:
    # Stacks keep their order: it is part of what they do.
    ordered = {
        key: list(value.items()) if key in ("regularization", "augmentation") else value for key, value in what.items()
    }
    # 1.0 and 1 are one number, however an option's own keys were typed.
    exact = json.loads(
        json.dumps([ordered, contents]), parse_float=lambda text: int(x) if (x := float(text)).is_integer() else x
    )
    text = json.dumps(exact, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def slug(overrides: list[str]) -> str:
    """The typed overrides as part of a folder's name."""
    words = []
    for override in overrides:
        key, _, value = override.partition("=")
        key = key.lstrip("+")
        if {key, key.partition(".")[0]} & NOT_IDENTITY or key.startswith("hydra") or key == "experiment":
            continue
        words.append(f"{key.partition('.')[2] or key}={value}")
    text = re.sub(r"[^\w.,=+%-]+", "_", ",".join(words).replace("[", "").replace("]", ""))
    return text.encode()[:LONGEST_SLUG].decode(errors="ignore").strip("_,") or "defaults"
