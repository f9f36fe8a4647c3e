"""Arguments of a target, checked against its signature: unknown names, wrong types, missing ones."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from runner.build.complaints import reworded
from runner.core.errors import did_you_mean
from runner.core.schema import GROUPS, OWN_KEYS, STACKS
from runner.core.targets import locate, nested_complaints
from runner.core.text import shown

# Arguments that the builder passes, by group.
BUILDER_ARGUMENTS: dict[str, frozenset[str]] = {
    "model": frozenset({"in_channels", "num_classes", "image_size"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"timeline"}),
    "data": frozenset(GROUPS["data"].model_fields),
}


def arguments(group: str, node: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a node that goes to its target."""
    runner_keys = OWN_KEYS.get(group, frozenset())
    return {key: value for key, value in node.items() if not key.startswith("_") and key not in runner_keys}


@functools.cache
def _signature(target: Callable[..., Any]) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]]:
    """Return a target's parameters, and their annotations where they can be resolved."""
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        hints = {}
    return inspect.signature(target).parameters, hints


def bind(group: str, path: str, node: Any, trust: list[str]) -> list[str]:
    """Return the errors of a node, a line each: its target, names of arguments, their types by annotation.

    Replaces texts in the node by numbers where the annotation asks for numbers.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        if group in STACKS:
            name = path.rpartition(".")[2]
            return [f"{path}: '{name}' is not in the stack; add it ('{group}=[{name}]') or leave its keys out"]
        return [f"{group} is not chosen: {group}=OPTION"]
    lines = list(nested_complaints(path, node, trust))
    if lines:
        return lines
    target = locate(path, node["_target_"], trust)
    parameters, hints = _signature(target)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    allowed = set(parameters) - BUILDER_ARGUMENTS.get(group, frozenset())
    shared = GROUPS[group].model_fields if group in GROUPS else {}
    runner_keys = OWN_KEYS.get(group, frozenset())
    unknown = []
    for key, value in node.items():
        if key == "_target_" or key in runner_keys:
            continue
        if not isinstance(key, str) or key.startswith("_") or (key not in allowed and not takes_any):
            names = sorted(allowed - {"self", "args", "kwargs"})
            if not names:
                unknown.append(key)
                continue
            lines.append(
                f"{path}.{key}={shown(value)}: no such key; it has {', '.join(names)}{did_you_mean(str(key), names)}"
            )
        elif key in parameters and key not in shared:
            if error := _type_error(value, hints.get(key), parameters[key].default):
                lines.append(f"{path}.{key}={shown(value)}: {error}")
            else:
                node[key] = _numbers(value, hints.get(key))
    if unknown:  # mostly keys of an experiment, beside another option than its own
        values = ", ".join(f"{path}.{key}={shown(node[key])}" for key in unknown)
        way_out = f"choose another {group}, or take them out (~{path}.{unknown[0]})"
        lines.append(f"{values}: no such key; it has none of its own; {way_out}")
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if group == "optimizer":
        required.add("lr")  # because `lr_scale` and the schedule multiply it
    missing = required - set(node) - BUILDER_ARGUMENTS.get(group, frozenset())
    lines += [f"{path}.{key} is missing: {path}.{key}=VALUE" for key in sorted(missing)]
    lines += [f"{path}.{key} is missing: {path}.{key}=VALUE" for key, value in node.items() if value == "???"]
    return lines


def _type_error(value: Any, hint: Any, default: Any) -> str | None:
    """Return why a value does not fit an annotation (or the default's type where there is none); None where it fits."""
    if isinstance(value, dict) and "_target_" in value:
        return None  # the object's type is only known once it is built
    if hint is None:
        if default in (inspect.Parameter.empty, None):
            return None
        hint = float if isinstance(default, float) else type(default)
        hint |= None
    if isinstance(value, bool) and "bool" not in str(hint) and "BeforeValidator" not in str(hint) and hint is not Any:
        return f"must be {_type_name(hint)}"
    try:
        _adapter(hint, str(hint)).validate_python(value)
    except ValidationError as error:
        details = [detail for detail in reworded(error) if detail["type"] != "is_instance_of"] or reworded(error)
        return " or ".join(dict.fromkeys(detail["msg"] for detail in details))
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return None
    return None


def _numbers(value: Any, hint: Any) -> Any:
    """Return a checked value with texts converted to the annotation's numbers, because `${oc.env:N}` gives texts."""
    texts = value if isinstance(value, list) else [value]
    if hint is None or not any(isinstance(text, str) for text in texts):
        return value
    try:
        converted = _adapter(hint, str(hint)).validate_python(value)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return value
    converted = list(converted) if isinstance(converted, tuple) else converted
    return converted if isinstance(converted, int | float | list) else value


@functools.cache  # because a thousand combinations share a few hints, and building an adapter takes 0.2 ms
def _adapter(hint: Any, text: str) -> TypeAdapter:
    """Return pydantic's adapter of a hint.

    text: of the hint. It is part of the cache's key, because literals of the same words in another order are equal.
    """
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _type_name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a word"}.get(hint, str(hint).replace("typing.", ""))
