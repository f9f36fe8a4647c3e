"""The arguments of a target, checked against its signature: their names, their types, those that are missing."""

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

# Arguments that the builder passes itself, by group.
GIVEN: dict[str, frozenset[str]] = {
    "model": frozenset({"in_channels", "num_classes", "image_size"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"timeline"}),
    "data": frozenset(GROUPS["data"].model_fields),
}


def arguments(group: str, node: dict[str, Any]) -> dict[str, Any]:
    """The part of a node that is meant for its target."""
    own = OWN_KEYS.get(group, frozenset())
    return {key: value for key, value in node.items() if not key.startswith("_") and key not in own}


@functools.cache
def _takes(target: Callable[..., Any]) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]]:
    """A target's parameters, and their annotations where they can be resolved."""
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        hints = {}
    return inspect.signature(target).parameters, hints


def bind(group: str, path: str, node: Any, trust: list[str]) -> list[str]:
    """Complaints about a node: target, names of arguments, their types by the target's annotations."""
    if not isinstance(node, dict) or "_target_" not in node:
        if group in STACKS:
            name = path.rpartition(".")[2]
            return [f"{path}: '{name}' is not in the stack; add it ('{group}=[{name}]') or leave its keys out"]
        return [f"{group} is not chosen: {group}=OPTION"]
    lines = list(nested_complaints(path, node, trust))
    if lines:
        return lines
    target = locate(path, node["_target_"], trust)
    parameters, hints = _takes(target)
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    takes = set(parameters) - GIVEN.get(group, frozenset())
    typed = GROUPS[group].model_fields if group in GROUPS else {}
    own = OWN_KEYS.get(group, frozenset())
    stray = []
    for key, value in node.items():
        if key == "_target_" or key in own:
            continue
        if not isinstance(key, str) or key.startswith("_") or (key not in takes and not any_name):
            names = sorted(takes - {"self", "args", "kwargs"})
            if not names:
                stray.append(key)
                continue
            lines.append(
                f"{path}.{key}={shown(value)}: no such key; it has {', '.join(names)}{did_you_mean(str(key), names)}"
            )
        elif key in parameters and key not in typed:
            if wrong := _wrong_type(value, hints.get(key), parameters[key].default):
                lines.append(f"{path}.{key}={shown(value)}: {wrong}")
            else:
                node[key] = _numbers(value, hints.get(key))
    if stray:  # an experiment's, as a rule, beside another option than its own
        told = ", ".join(f"{path}.{key}={shown(node[key])}" for key in stray)
        way_out = f"choose another {group}, or take them out (~{path}.{stray[0]})"
        lines.append(f"{told}: no such key; it has none of its own; {way_out}")
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if group == "optimizer":
        required.add("lr")  # which `lr_scale` and the schedule multiply
    missing = required - set(node) - GIVEN.get(group, frozenset())
    lines += [f"{path}.{key} is missing: {path}.{key}=VALUE" for key in sorted(missing)]
    lines += [f"{path}.{key} is missing: {path}.{key}=VALUE" for key, value in node.items() if value == "???"]
    return lines


def _wrong_type(value: Any, hint: Any, default: Any) -> str | None:
    """Why a value does not fit an annotation, or the type of the default where there is none."""
    if isinstance(value, dict) and "_target_" in value:
        return None  # what it makes is known when it is built
    if hint is None:
        if default in (inspect.Parameter.empty, None):
            return None
        hint = float if isinstance(default, float) else type(default)
        hint |= None
    if isinstance(value, bool) and "bool" not in str(hint) and "BeforeValidator" not in str(hint) and hint is not Any:
        return f"must be {_words(hint)}"
    try:
        _adapter(hint, str(hint)).validate_python(value)
    except ValidationError as error:
        details = [detail for detail in reworded(error) if detail["type"] != "is_instance_of"] or reworded(error)
        return " or ".join(dict.fromkeys(detail["msg"] for detail in details))
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return None
    return None


def _numbers(value: Any, hint: Any) -> Any:
    """Return a checked value, its texts as the numbers that an annotation wants: `${oc.env:N}` gives texts."""
    texts = value if isinstance(value, list) else [value]
    if hint is None or not any(isinstance(text, str) for text in texts):
        return value
    try:
        exact = _adapter(hint, str(hint)).validate_python(value)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return value
    exact = list(exact) if isinstance(exact, tuple) else exact
    return exact if isinstance(exact, int | float | list) else value


@functools.cache  # a thousand combinations ask of the same few hints; to build one takes 0.2 ms
def _adapter(hint: Any, text: str) -> TypeAdapter:
    """`text`: of the hint. Literals of the same words are equal whatever their order, and complaints tell them."""
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _words(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a word"}.get(hint, str(hint).replace("typing.", ""))
