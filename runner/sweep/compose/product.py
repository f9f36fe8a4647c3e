"""Combinations of a sweep: the product of its keys, keys that vary together, seeds."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from runner.build.complaints import Refused, complaints
from runner.core.errors import ConfigError, did_you_mean
from runner.core.schema import SweepKeys
from runner.core.text import shown
from runner.report.results.format import count
from runner.sweep.compose.grammar import OWN
from runner.sweep.compose.overrides import Pairs, override_key, override_values

PART = "sweep"  # the section of the config that defines combinations; not part of a run's config


def is_part(override: Override) -> bool:
    """Return whether an override defines combinations (`sweep.zip=...`)."""
    return override_key(override).split(".")[0] == PART


def sweep_keys(config: DictConfig, typed: Iterable[Override]) -> SweepKeys:
    """Return the section `sweep` of a config; typed keys win over an experiment's. Raises `Refused`."""
    section = config[PART]  # a number where `sweep=3` is typed
    settings: dict[str, Any] = OmegaConf.to_container(section, resolve=True) if OmegaConf.is_config(section) else {}
    for override in filter(is_part, typed):
        _, _, key = override_key(override).partition(".")
        if not key or override.is_delete():
            raise ConfigError(f"{override.input_line}: type the keys of {PART} one by one, {PART}.KEY=VALUE")
        settings[key] = _value(override)
    if lines := complaints(SweepKeys, settings, f"{PART}."):
        zipped = f"{PART}.zip={shown(settings['zip'])}: {OWN[f'{PART}.zip']}"
        raise Refused([zipped if line.startswith(f"{PART}.zip=") else line for line in lines])
    return SweepKeys.model_validate(settings)


def _value(override: Override) -> Any:
    """Return the value of an override; several values are a list (`sweep.zip=optimizer,optimizer.lr`), not a sweep."""
    if not override.is_choice_sweep():
        return override_values(override) if override.is_sweep_override() else override.value()
    items = [_unquote(value) for value in override.value().list]
    return items[0] if len(items) == 1 else items


def _unquote(value: Any) -> Any:
    """Return a value with the text of Hydra's quoted strings."""
    if isinstance(value, list):
        return [_unquote(item) for item in value]
    return getattr(value, "text", value)


def combine(overrides: Sequence[Override], sweep: SweepKeys, seed: int) -> list[Pairs]:
    """Return every combination of the values; the last key varies fastest.

    seed: of the first repetition, where none is typed. Groups of `sweep.zip` that no override sweeps are ignored.
    Raises `ConfigError`.
    """
    lists = {override_key(o): [(o.get_key_element(), value) for value in override_values(o)] for o in overrides}
    groups = [group for group in sweep.zip if any(len(lists.get(key, [])) > 1 for key in group)]
    _check_groups(groups, lists)
    if sweep.repeat > 1:
        lists["seed"] = _seeds(lists.pop("seed", []), sweep.repeat, seed)
    axes: list[list[Pairs]] = []
    for key, typed in lists.items():
        group = next((group for group in groups if key in group), [key])
        members = [member for member in lists if member in group]
        if key == members[0]:  # the group is at the position of its first key
            zipped = zip(*(lists[member] for member in members))
            axes.append([list(pairs) for pairs in zipped] if len(group) > 1 else [[pair] for pair in typed])
    return [list(itertools.chain(*pairs)) for pairs in itertools.product(*axes)]


def check_zip(sweep: SweepKeys, swept: Sequence[str]) -> None:
    """Raise `ConfigError` for a group of `sweep.zip` that names a key twice, or a key that is not swept."""
    named = list(itertools.chain(*sweep.zip))
    for key in named:
        if named.count(key) > 1:
            raise ConfigError(f"{_zip_as_typed(sweep.zip)}: '{key}' is named twice; a key varies in one group")
        if key not in swept:
            known = f"swept are {', '.join(swept)}" if swept else "no key is"
            near = [] if "." in key else swept  # `optimizer` is no misspelling of `optimizer.lr`
            advice = did_you_mean(key, near) or f"; give it several values, {key}=A,B, or leave it out"
            raise ConfigError(f"{_zip_as_typed(sweep.zip)}: '{key}' is not swept ({known}){advice}")
    if short := next((group for group in sweep.zip if len(group) < 2), None):
        raise ConfigError(f"{_zip_as_typed(sweep.zip)}: {shown(short)} is no group; name the keys that vary together")


def _check_groups(groups: Iterable[list[str]], lists: dict[str, Pairs]) -> None:
    for group in groups:
        lengths = {key: len(lists.get(key, [])) for key in group}
        if len(set(lengths.values())) > 1:
            numbers = ", ".join(f"{key} has {count(values, 'value')}" for key, values in lengths.items())
            raise ConfigError(f"{_zip_as_typed([group])}: the keys of a group need equally many values; {numbers}")


def _zip_as_typed(groups: list[list[str]]) -> str:
    return f"{PART}.zip={shown(groups[0] if len(groups) == 1 else groups)}"


def _seeds(typed: Pairs, repeat: int, first: int) -> Pairs:
    """Return `repeat` consecutive seeds, from the typed one where there is one, else from `first`."""
    if len(typed) > 1:
        seeds = ",".join(value for _, value in typed)
        raise ConfigError(f"{PART}.repeat={repeat}: the seed is swept already (seed={seeds}); choose one of the two")
    for _, value in typed:
        if not value.isdecimal():
            raise ConfigError(f"seed={value}: must be a whole number, from which {PART}.repeat={repeat} counts")
        first = int(value)
    return [("seed", str(first + i)) for i in range(repeat)]


def find_varying_keys(combinations: Iterable[Pairs]) -> set[str]:
    """Return the keys whose values differ between combinations."""
    rows = [dict(pairs) for pairs in combinations]
    return {key for key in {key for row in rows for key in row} if len({row.get(key) for row in rows}) > 1}
