"""Conditions that exclude combinations from a sweep: `optimizer=sgd & optimizer.lr>0.5 | model=mlp`."""

import functools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from runner.core.errors import ConfigError, did_you_mean
from runner.core.schema import STACKS
from runner.core.text import shown
from runner.sweep.compose.compose import Composer
from runner.sweep.compose.overrides import Pairs, is_interpolated

COMPARISON = re.compile(r"\s*([\w@/.-]+)\s*(!=|<=|>=|==?|<|>)\s*([^=<>!|]+?)\s*")
OR, AND = re.compile(r"\|\|?"), re.compile("&&?")
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

FEW = 5  # values that an error lists
MISSING = object()  # the value of a key that a combination does not have


@dataclass(frozen=True)
class KeyComparison:
    """A key of the config, or a group, compared with a value."""

    key: str
    sign: str
    value: Any

    def holds(self, value: Any) -> bool:
        """Return whether a combination's value satisfies the comparison; False for a missing key."""
        if value is MISSING:
            return False
        if self.sign in ORDERS:
            return _is_number(value) and ORDERS[self.sign](value, self.value)
        return _is_equal(value, self.value) == (self.sign != "!=")


@dataclass
class Condition:
    """Comparisons joined by `&`, and the count of combinations that they exclude."""

    text: str
    comparisons: list[KeyComparison]
    excluded: int = 0

    def holds(self, typed: Mapping[str, Any], composed: Callable[[], Mapping[str, Any]]) -> bool:
        """Return whether a combination satisfies all comparisons.

        typed: key -> value. composed: called for the whole config, only where a key was not typed.
        """
        remaining = []
        for comparison in self.comparisons:
            if comparison.key not in typed:
                remaining.append(comparison)
                continue
            if not comparison.holds(typed[comparison.key]):
                return False
        return all(comparison.holds(composed().get(comparison.key, MISSING)) for comparison in remaining)


def alternatives(text: str) -> list[str]:
    """Split a text at each `|` into conditions; each must exclude a combination."""
    return [part.strip() for part in OR.split(text)]


def parse_condition(text: str) -> Condition:
    """Parse one condition, without `|`. Raises `ConfigError`."""
    comparisons = []
    for part in AND.split(text):
        match = COMPARISON.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"sweep.exclude: '{text}' is no condition; type KEY=VALUE (or != < <= > >=), "
                "several joined by & (and) or | (or)"
            )
        key, sign, value = match[1], match[2], plain(match[3])
        if sign in ORDERS and not _is_number(value):
            raise ConfigError(f"sweep.exclude: '{part.strip()}' compares no number; use = or !=")
        comparisons.append(KeyComparison(key, sign, value))
    return Condition(text, comparisons)


@functools.cache
def plain(text: str) -> Any:
    """Convert a typed value to Python's type."""
    try:
        return float(text)  # not by YAML alone, because it reads 1e-3 as a string
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def apply_exclusions(rows: list[tuple[Pairs, list[Condition]]], composer: Composer) -> list[Pairs]:
    """Return the combinations that no condition excludes.

    rows: combinations, each with its conditions. Raises `ConfigError` for a condition without effect, and where no
    combination is left.
    """
    remaining = []
    for pairs, conditions in rows:
        composed = functools.cache(functools.partial(_composed_values, composer, pairs))
        typed = {key.lstrip("+"): plain(text) for key, text in pairs if not is_interpolated(text)}
        for key in (key.lstrip("+") for key, text in pairs if is_interpolated(text)):
            typed |= {key: plain(shown(composed()[key]))} if key in composed() else {}
        satisfied = [condition for condition in conditions if condition.holds(typed, composed)]
        for condition in satisfied:
            condition.excluded += 1
        if not satisfied:
            remaining.append(pairs)
    for condition in {id(condition): condition for _, conditions in rows for condition in conditions}.values():
        if not condition.excluded:
            raise ConfigError(_explain_no_effect(condition, [pairs for pairs, _ in rows], composer))
    if not remaining:
        raise ConfigError(f"sweep.exclude takes out all {len(rows)} combinations: nothing is left to run")
    return remaining


def _explain_no_effect(condition: Condition, combinations: list[Pairs], composer: Composer) -> str:
    message = f"sweep.exclude: '{condition.text}' takes out none of the {len(combinations)} combinations"
    rows = [
        _composed_values(composer, pairs)
        | {key.lstrip("+"): plain(text) for key, text in pairs if not is_interpolated(text)}
        for pairs in combinations
    ]
    keys = set().union(*rows)
    for comparison in condition.comparisons:
        key = comparison.key
        if key not in keys:
            return f"{message}: none has a key '{key}'{did_you_mean(key, keys)}"
        values = list(dict.fromkeys(shown(row[key]) for row in rows if key in row))
        if comparison.sign in ("=", "==") and shown(comparison.value) not in values:
            first = ", ".join(values[:FEW]) + (", ..." if len(values) > FEW else "")
            return f"{message}: {key} is {first}{did_you_mean(shown(comparison.value), values)}"
    return f"{message}; correct it or leave it out"


def _composed_values(composer: Composer, pairs: Pairs) -> dict[str, Any]:
    """Return the values of a composed combination: of each dotted key, and the chosen option of each group."""
    try:
        composed = composer.compose([f"{key}={text}" for key, text in pairs])
    except ConfigError:
        return {}  # this combination is refused later, with that error
    stacks = {group: list(composed.config[group]) for group in STACKS}
    return dict(_leaves(composed.config)) | stacks | composed.choices


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_equal(left: Any, right: Any) -> bool:
    if _is_number(left) and _is_number(right):
        return left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_is_equal, left, right))
    return type(left) is type(right) and left == right
