"""Checks of a config before anything is built: types and ranges, targets and their arguments."""

from collections.abc import Iterable, Iterator
from typing import Any

from runner.build.arguments import bind
from runner.build.complaints import Refused, complaints
from runner.core.schema import GROUPS, STACKS, Config, Keys

PARTS = {  # sections of keys that are no choice of an option
    name
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Keys)
}


def nodes(
    config: dict[str, Any], groups: Iterable[str] = tuple(Config.model_fields)
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (group, path, node) of every option and every item of a stack."""
    for group in groups:
        if group in STACKS:
            for name, node in config[group].items():
                yield group, f"{group}.{name}", node
        elif isinstance(config[group], dict) and group not in PARTS:
            yield group, group, config[group]


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with its values converted to their types (`lr=1` is 1.0), after checking all of it.

    Checks types, ranges, targets and their arguments. Raises `Refused` with all errors.
    """
    lines = complaints(Config, config, "")
    for group, model in GROUPS.items():
        if isinstance(config.get(group), dict):
            lines += complaints(model, config[group], f"{group}.")
    if lines:
        raise Refused(lines)
    config = Config.model_validate(config).model_dump()
    for group, model in GROUPS.items():
        dumped = model.model_validate(config[group]).model_dump(exclude_unset=True)
        config[group] = dumped | {key: list(value) for key, value in dumped.items() if isinstance(value, tuple)}
    for group, path, node in nodes(config):
        lines += bind(group, path, node, config["trust"])
    if lines:
        raise Refused(lines)
    return config


def option_complaints(config: dict[str, Any], group: str) -> list[str]:
    """Return the errors in the options of one group (types, targets, arguments), a line each."""
    model = GROUPS.get(group)
    lines = complaints(model, config[group], f"{group}.") if model is not None else []
    return lines + [
        line for _, path, node in nodes(config, [group]) for line in bind(group, path, node, config["trust"])
    ]
