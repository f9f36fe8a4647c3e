"""Which combinations a sweep has: the product of its keys, keys that vary together, seeds."""

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

PART = "sweep"  # of the config: how combinations are made, no key of a run


def is_part(override: Override) -> bool:
    """Whether an override says how combinations are made (`sweep.zip=...`)."""
    return override_key(override).split(".")[0] == PART


def sweep_keys(config: DictConfig, typed: Iterable[Override]) -> SweepKeys:
    """How the combinations of a config are made; typed keys win over an experiment's. Raises `Refused`."""
    whole = config[PART]  # no keys where `sweep=3` is typed
    found: dict[str, Any] = OmegaConf.to_container(whole, resolve=True) if OmegaConf.is_config(whole) else {}
    for override in filter(is_part, typed):
        _, _, key = override_key(override).partition(".")
        if not key or override.is_delete():
            raise ConfigError(f"{override.input_line}: type the keys of {PART} one by one, {PART}.KEY=VALUE")
        found[key] = _value(override)
    if lines := complaints(SweepKeys, found, f"{PART}."):
        zipped = f"{PART}.zip={shown(found['zip'])}: {OWN[f'{PART}.zip']}"
        raise Refused([zipped if line.startswith(f"{PART}.zip=") else line for line in lines])
    return SweepKeys.model_validate(found)


def _value(override: Override) -> Any:
    """The value; what would be several values of any other key is a list here (`sweep.zip=optimizer,optimizer.lr`)."""
    if not override.is_choice_sweep():
        return override_values(override) if override.is_sweep_override() else override.value()
    several = [_plain(value) for value in override.value().list]
    return several[0] if len(several) == 1 else several


def _plain(value: Any) -> Any:
    """Without Hydra's quotes."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return getattr(value, "text", value)


def combine(overrides: Sequence[Override], sweep: SweepKeys, seed: int) -> list[Pairs]:
    """Every combination of the values, the last key varying fastest; `seed` is where repetitions begin, where none is
    typed. A group of `sweep.zip` of which no key is here is not meant. Raises `ConfigError`."""
    lists = {override_key(o): [(o.get_key_element(), value) for value in override_values(o)] for o in overrides}
    groups = [group for group in sweep.zip if any(len(lists.get(key, [])) > 1 for key in group)]
    _check_groups(groups, lists)
    if sweep.repeat > 1:
        lists["seed"] = _seeds(lists.pop("seed", []), sweep.repeat, seed)
    axes: list[list[Pairs]] = []
    for key, several in lists.items():
        group = next((group for group in groups if key in group), [key])
        if key == next(other for other in lists if other in group):  # the group stands where its first key does
            together = [lists[other] for other in lists if other in group]
            axes.append([list(pairs) for pairs in zip(*together)] if len(group) > 1 else [[pair] for pair in several])
    return [list(itertools.chain(*pairs)) for pairs in itertools.product(*axes)]


def check_zip(sweep: SweepKeys, swept: Sequence[str]) -> None:
    """Raises `ConfigError` for groups that name a key twice, or one that is not among the keys that are swept."""
    named = list(itertools.chain(*sweep.zip))
    for key in named:
        if named.count(key) > 1:
            raise ConfigError(f"{_words(sweep.zip)}: '{key}' is named twice; a key varies in one group")
        if key not in swept:
            told = f"swept are {', '.join(swept)}" if swept else "no key is"
            near = [] if "." in key else swept  # `optimizer` is no slip for `optimizer.lr`
            way = did_you_mean(key, near) or f"; give it several values, {key}=A,B, or leave it out"
            raise ConfigError(f"{_words(sweep.zip)}: '{key}' is not swept ({told}){way}")
    if short := next((group for group in sweep.zip if len(group) < 2), None):
        raise ConfigError(f"{_words(sweep.zip)}: {shown(short)} is no group; name the keys that vary together")


def _check_groups(groups: Iterable[list[str]], lists: dict[str, Pairs]) -> None:
    for group in groups:
        lengths = {key: len(lists.get(key, [])) for key in group}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key} has {count(values, 'value')}" for key, values in lengths.items())
            raise ConfigError(f"{_words([group])}: the keys of a group need equally many values; {told}")


def _words(groups: list[list[str]]) -> str:
    """As it is typed."""
    return f"{PART}.zip={shown(groups[0] if len(groups) == 1 else groups)}"


def _seeds(typed: Pairs, repeat: int, first: int) -> Pairs:
    """As many as are asked for, from the typed one on."""
    if len(typed) > 1:
        told = ",".join(value for _, value in typed)
        raise ConfigError(f"{PART}.repeat={repeat}: the seed is swept already (seed={told}); choose one of the two")
    for _, value in typed:
        if not value.isdecimal():
            raise ConfigError(f"seed={value}: must be a whole number, from which {PART}.repeat={repeat} counts")
        first = int(value)
    return [("seed", str(first + i)) for i in range(repeat)]


def find_varying_keys(asked: Iterable[Pairs]) -> set[str]:
    """The keys that do not have one and the same value in every combination."""
    rows = [dict(pairs) for pairs in asked]
    return {key for key in {key for row in rows for key in row} if len({row.get(key) for row in rows}) > 1}
