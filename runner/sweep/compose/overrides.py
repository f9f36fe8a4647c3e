"""Overrides of a command, parsed by Hydra's parser."""

import functools
import random
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from runner.core.errors import ConfigError
from runner.core.schema import NOT_IDENTITY, STACKS
from runner.core.text import shown
from runner.sweep.compose.argv import as_typed
from runner.sweep.compose.ranges import parser_functions, range_values

Pairs = list[tuple[str, str]]  # keys and their values as typed, of one combination


def parse(loader: ConfigLoader, arguments: list[str]) -> list[Override]:
    """Parse arguments to Hydra's overrides."""
    return OverridesParser(parser_functions(), loader).parse_overrides(arguments)


def override_key(override: Override) -> str:
    """Return the key that an override sets, or its group with the package (`optimizer@optimizer.base`)."""
    return override.get_key_element().lstrip("+~")


def override_values(override: Override) -> list[str]:
    """Return all values of an override as text that Hydra parses. Raises `ConfigError` for an interval or no value."""
    if not override.is_sweep_override():
        return [_yaml_constant(override.get_value_element_as_str())]
    if not override.is_discrete_sweep():
        message = f"{override.input_line}: an interval has no list of values; use choice(...) or range(...)"
        raise ConfigError(f"{message}, or hydra/sweeper=search")
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        texts = [repr(number) for number in range_values(sweep, override.input_line)]
        if sweep.shuffle:
            random.shuffle(texts)
    else:
        texts = [_yaml_constant(text) for text in override.sweep_string_iterator()]
    if not texts:
        raise ConfigError(f"{override.input_line}: has no values, so there is nothing to run")
    return texts


def _yaml_constant(text: str) -> str:
    """Return a Python constant as YAML writes it; any other text unchanged."""
    return {"True": "true", "False": "false", "None": "null"}.get(text, text)


def check_overrides(overrides: list[Override], loader: ConfigLoader) -> None:
    """Raise `ConfigError` for overrides that Hydra accepts silently.

    These are a key typed twice, an item listed twice, a list where one option is expected, and a sweep over a key that
    cannot change a result.
    """
    seen: dict[str, Override] = {}
    for override in overrides:
        key = override_key(override)
        if key in seen:
            both = " and ".join(as_typed(twin.input_line) for twin in (seen[key], override))
            raise ConfigError(f"{both}: '{key}' is typed twice; only one would count")
        seen[key] = override
        if key in NOT_IDENTITY and len(override_values(override)) > 1:
            raise ConfigError(
                f"{override.input_line}: '{key}' cannot change a result, so all its values are one run; type one value"
            )
        if key not in STACKS and loader.get_group_options(key) and isinstance(override.value(), list):
            options = override.get_value_element_as_str().strip("[]")
            raise ConfigError(
                f"{override.input_line}: takes options without brackets, {key}={options}; several are a sweep"
            )
        if key in STACKS:
            for text in override_values(override):
                names = [name.strip() for name in text.strip("[]").split(",")]
                lists = {name: items for name in names if (items := listed_items(loader, f"{key}/{name}"))}
                names += [item for items in lists.values() for item in items]
                if duplicates := sorted({name for name in names if names.count(name) > 1}):
                    details = "; ".join(f"{name} is {', '.join(items)}" for name, items in lists.items())
                    message = f"'{duplicates[0]}' is listed twice" + (f" ({details})" if details else "")
                    raise ConfigError(f"{key}={text}: {message}; an item can be there once")


def listed_items(loader: ConfigLoader, path: str) -> list[str]:
    """Return the items that a config of a stack's group lists (`augmentation/cifar`); none for an item itself."""
    source = next((source for source in loader.get_sources() if source.is_config(path)), None)
    return [] if source is None else list(source.load_config(path).config.get("defaults", []))


@functools.cache
def parse_value(key: str, text: str) -> Any:
    """Convert a typed value to Python's type; a list becomes a list of strings."""
    content = OverridesParser.create().parse_override(f"{key}={text}").value()
    if isinstance(content, list):
        return [str(item) for item in content]
    return content if isinstance(content, int | float | bool | None) else str(content)


def is_interpolated(text: str) -> bool:
    """Return whether a value holds `${...}`; Hydra writes a backslash before its braces."""
    return "${" in text.replace("\\", "")


def resolve_interpolations(
    words: list[str], swept: dict[str, Any], config: dict[str, Any], choices: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Return a combination's overrides and swept values with its interpolations (`epochs=${oc.env:N}`) resolved.

    config: checked. choices: group -> option.
    """
    words, swept = list(words), dict(swept)
    for i, word in enumerate(words):
        key, _, text = word.partition("=")
        plain = key.lstrip("+")
        if not is_interpolated(text) or key.startswith(("hydra.", "~")):
            continue
        exists, content = _look_up(plain, config, choices)
        if exists:
            words[i] = f"{key}={shown(content)}"
            if plain in swept:
                swept[plain] = [str(item) for item in content] if isinstance(content, list) else content
    return words, swept


def _look_up(key: str, config: dict[str, Any], choices: dict[str, Any]) -> tuple[bool, Any]:
    """Return (True, the value of a key or the option of a group); (False, None) where there is none."""
    if key in STACKS:
        return True, list(config[key])
    if key in choices:
        return True, choices[key]
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False, None
        node = node[part]
    return not isinstance(node, dict), node
