"""Which run a config is: a hash of all that can change its result, and its name in words."""

import hashlib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from runner.schema import EVALUATION, NOT_IDENTITY

LENGTH = 10  # hexadecimal digits of a fingerprint
LONGEST_SLUG = 100  # bytes: names of files end at 255


def fingerprints(
    config: dict[str, Any], contents: str, ignored: frozenset[str], revised: Mapping[str, int] = MappingProxyType({})
) -> tuple[str, str]:
    """`(fingerprint, training)`: of the whole run, and of its training alone.

    contents: the identity of the data's contents, which stands for the paths they were read from.
    ignored: parts of the config that do not matter to the run's task.
    revised: the revisions that apply to the config (`runner.revisions.revisions`); without any, the hash is what it was
    before there were revisions.
    """
    what = _without(config, NOT_IDENTITY | ignored)
    if revised:
        what["revisions"] = dict(revised)
    return _hash(what, contents), _hash({k: v for k, v in what.items() if k not in EVALUATION}, contents)


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
