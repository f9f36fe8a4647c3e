"""What was typed, read as Hydra reads it."""

import functools
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from runner.core.errors import ConfigError
from runner.core.schema import NOT_IDENTITY, STACKS
from runner.core.text import shown
from runner.sweep.compose.argv import as_typed

Pairs = list[tuple[str, str]]  # keys and their values as typed, of one combination


def parse(loader: ConfigLoader, arguments: list[str]) -> list[Override]:
    """Typed words as Hydra's overrides."""
    return OverridesParser.create(config_loader=loader).parse_overrides(arguments)


def override_key(override: Override) -> str:
    """What an override sets: a key, or a group with the place it goes to (`optimizer@optimizer.base`)."""
    return override.get_key_element().lstrip("+~")


def override_values(override: Override) -> list[str]:
    """Every value of an override, as text that Hydra reads back. Raises `ConfigError` for what is no list."""
    if not override.is_sweep_override():
        return [_lower(override.get_value_element_as_str())]
    if not override.is_discrete_sweep():
        told = f"{override.input_line}: an interval has no list of values; use choice(...) or range(...)"
        raise ConfigError(f"{told}, or hydra/sweeper=search")
    if not (found := [_lower(text) for text in override.sweep_string_iterator()]):
        raise ConfigError(f"{override.input_line}: has no values, so there is nothing to run")
    return found


def _lower(text: str) -> str:
    """Python's constants as they are typed."""
    return {"True": "true", "False": "false", "None": "null"}.get(text, text)


def check_overrides(overrides: list[Override], loader: ConfigLoader) -> None:
    """What Hydra takes without a word: an item listed twice, a list and a `+` that is lost in it, a key typed twice."""
    seen: dict[str, Override] = {}
    for override in overrides:
        key = override_key(override)
        if key in seen:
            both = " and ".join(as_typed(other.input_line) for other in (seen[key], override))
            raise ConfigError(f"{both}: '{key}' is typed twice; only one would count")
        seen[key] = override
        if key in NOT_IDENTITY and len(override_values(override)) > 1:
            raise ConfigError(
                f"{override.input_line}: '{key}' cannot change a result, so all its values are one run; type one value"
            )
        if key not in STACKS and loader.get_group_options(key) and isinstance(override.value(), list):
            several = override.get_value_element_as_str().strip("[]")
            raise ConfigError(
                f"{override.input_line}: takes options without brackets, {key}={several}; several are a sweep"
            )
        if key in STACKS:
            for text in override_values(override):
                names = [name.strip() for name in text.strip("[]").split(",")]
                lists = {name: brought for name in names if (brought := listed(loader, f"{key}/{name}"))}
                names += [item for brought in lists.values() for item in brought]
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    said = "; ".join(f"{name} is {', '.join(brought)}" for name, brought in lists.items())
                    told = f"'{twice[0]}' is listed twice" + (f" ({said})" if said else "")
                    raise ConfigError(f"{key}={text}: {told}; an item can be there once")


def listed(loader: ConfigLoader, path: str) -> list[str]:
    """The items that a file of a stack's group lists (`augmentation/cifar`), if it is no item itself."""
    source = next((source for source in loader.get_sources() if source.is_config(path)), None)
    return [] if source is None else list(source.load_config(path).config.get("defaults", []))


@functools.cache
def parse_value(key: str, text: str) -> Any:
    """A typed value as a Python one; a list stays a list of words."""
    found = OverridesParser.create().parse_override(f"{key}={text}").value()
    if isinstance(found, list):
        return [str(item) for item in found]
    return found if isinstance(found, int | float | bool | None) else str(found)


def is_interpolated(text: str) -> bool:
    """Return whether a value holds `${...}`; Hydra writes a backslash before its braces."""
    return "${" in text.replace("\\", "")


def resolve_interpolations(
    words: list[str], swept: dict[str, Any], config: dict[str, Any], choices: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Return a combination's words and swept values with what its interpolations (`epochs=${oc.env:N}`) resolved to.

    config: checked. choices: group -> option.
    """
    words, swept = list(words), dict(swept)
    for i, word in enumerate(words):
        key, _, text = word.partition("=")
        plain = key.lstrip("+")
        if not is_interpolated(text) or key.startswith(("hydra.", "~")):
            continue
        known, content = _looked_up(plain, config, choices)
        if known:
            words[i] = f"{key}={shown(content)}"
            if plain in swept:
                swept[plain] = [str(item) for item in content] if isinstance(content, list) else content
    return words, swept


def _looked_up(key: str, config: dict[str, Any], choices: dict[str, Any]) -> tuple[bool, Any]:
    """Return (whether a key has a value or an option of a group, which)."""
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
