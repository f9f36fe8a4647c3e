"""Conditions that take combinations out of a sweep: `optimizer=sgd & optimizer.lr>0.5 | model=mlp`."""

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

FEW = 5  # values that are named
MISSING = object()  # what a combination has under a key that it does not have


@dataclass(frozen=True)
class KeyComparison:
    """A key of the config, or a group, compared with a value."""

    key: str
    sign: str
    value: Any

    def holds(self, found: Any) -> bool:
        """Whether it is true of what a combination has; false where it has no such key."""
        if found is MISSING:
            return False
        if self.sign in ORDERS:
            return _is_number(found) and ORDERS[self.sign](found, self.value)
        return _same(found, self.value) == (self.sign != "!=")


@dataclass
class Condition:
    """Comparisons that are all to hold; it counts what it took out."""

    text: str
    comparisons: list[KeyComparison]
    taken: int = 0

    def holds(self, typed: Mapping[str, Any], composed: Callable[[], Mapping[str, Any]]) -> bool:
        """Whether it is true of a combination. `composed` is asked only for keys that were not typed."""
        waiting = []
        for comparison in self.comparisons:
            if comparison.key not in typed:
                waiting.append(comparison)
                continue
            if not comparison.holds(typed[comparison.key]):
                return False
        return all(one.holds(composed().get(one.key, MISSING)) for one in waiting)


def alternatives(text: str) -> list[str]:
    """The conditions that a `|` joins: each is to take something out."""
    return [part.strip() for part in OR.split(text)]


def parse_condition(text: str) -> Condition:
    """A condition as it is typed, without alternatives. Raises `ConfigError`."""
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
    """A typed value as a Python one."""
    try:
        return float(text)  # also what YAML takes for a word: 1e-3
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def apply_exclusions(asked: list[tuple[Pairs, list[Condition]]], composer: Composer) -> list[Pairs]:
    """The combinations of which no condition is true. Raises `ConfigError` for conditions that take out nothing, or
    leave nothing."""
    kept = []
    for pairs, conditions in asked:
        composed = functools.cache(functools.partial(_composed, composer, pairs))
        typed = {key.lstrip("+"): plain(text) for key, text in pairs if not is_interpolated(text)}
        for key in (key.lstrip("+") for key, text in pairs if is_interpolated(text)):
            typed |= {key: plain(shown(composed()[key]))} if key in composed() else {}
        true = [condition for condition in conditions if condition.holds(typed, composed)]
        for condition in true:
            condition.taken += 1
        if not true:
            kept.append(pairs)
    for condition in {id(one): one for _, conditions in asked for one in conditions}.values():
        if not condition.taken:
            raise ConfigError(_useless(condition, [pairs for pairs, _ in asked], composer))
    if not kept:
        raise ConfigError(f"sweep.exclude takes out all {len(asked)} combinations: nothing is left to run")
    return kept


def _useless(condition: Condition, asked: list[Pairs], composer: Composer) -> str:
    told = f"sweep.exclude: '{condition.text}' takes out none of the {len(asked)} combinations"
    rows = [
        _composed(composer, pairs) | {key.lstrip("+"): plain(text) for key, text in pairs if not is_interpolated(text)}
        for pairs in asked
    ]
    keys = set().union(*rows)
    for one in condition.comparisons:
        if one.key not in keys:
            return f"{told}: none has a key '{one.key}'{did_you_mean(one.key, keys)}"
        found = list(dict.fromkeys(shown(row[one.key]) for row in rows if one.key in row))
        if one.sign in ("=", "==") and shown(one.value) not in found:
            few = ", ".join(found[:FEW]) + (", ..." if len(found) > FEW else "")
            return f"{told}: {one.key} is {few}{did_you_mean(shown(one.value), found)}"
    return f"{told}; correct it or leave it out"


def _composed(composer: Composer, pairs: Pairs) -> dict[str, Any]:
    """What conditions may name beside what was typed: every dotted key, and every group with what was chosen."""
    try:
        composed = composer.compose([f"{key}={text}" for key, text in pairs])
    except ConfigError:
        return {}  # the combination is refused for that
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


def _same(one: Any, other: Any) -> bool:
    if _is_number(one) and _is_number(other):
        return one == other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other
