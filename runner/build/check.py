"""What was typed, checked before anything is built: types and ranges, targets, the arguments of every target."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from runner.core.errors import ConfigError, did_you_mean
from runner.core.schema import GROUPS, OWN_KEYS, STACKS, Config, Keys
from runner.core.targets import locate, nested_complaints
from runner.core.text import shown

# Arguments that the builder passes itself, by group.
GIVEN: dict[str, frozenset[str]] = {
    "model": frozenset({"in_channels", "num_classes", "image_size"}),
    "optimizer": frozenset({"params"}),
    "schedule": frozenset({"timeline"}),
    "data": frozenset(GROUPS["data"].model_fields),
}


class Refused(ConfigError):
    """All that is wrong with one combination, a line each."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = lines


PARTS = {  # keys that belong together, and are no choice of an option
    name
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Keys)
}


def nodes(
    config: dict[str, Any], groups: Iterable[str] = tuple(Config.model_fields)
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """`(group, path, node)` of every option and every item of a stack."""
    for group in groups:
        if group in STACKS:
            for name, node in config[group].items():
                yield group, f"{group}.{name}", node
        elif isinstance(config[group], dict) and group not in PARTS:
            yield group, group, config[group]


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Types, ranges, targets and their arguments; the config with its values made exact (`lr=1` is 1.0).

    Raises `Refused` with every complaint.
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
        lines += _bind(group, path, node, config["trust"])
    if lines:
        raise Refused(lines)
    return config


def option_complaints(config: dict[str, Any], group: str) -> list[str]:
    """Return what is wrong with the options of one group: types, targets, arguments; a line each."""
    model = GROUPS.get(group)
    lines = complaints(model, config[group], f"{group}.") if model is not None else []
    return lines + [
        line for _, path, node in nodes(config, [group]) for line in _bind(group, path, node, config["trust"])
    ]


def complaints(model: type, values: dict[str, Any], prefix: str) -> list[str]:
    """What is wrong with these values of a part of the config, a line a key."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [_complaint(prefix, detail, model.model_fields) for detail in _one_a_key(error)]
    return []


def _one_a_key(error: ValidationError) -> list[Any]:
    """A union complains once a member; its members' words are joined."""
    by_key: dict[tuple, list] = {}
    for detail in said(error):
        key = tuple(part for part in detail["loc"] if not (isinstance(part, str) and _is_type_word(part)))
        by_key.setdefault(key, []).append(detail)
    return [
        details[0] | {"loc": key, "msg": " or ".join(dict.fromkeys(d["msg"] for d in details))}
        for key, details in by_key.items()
    ]


def _is_type_word(part: str) -> bool:
    return "[" in part or part in ("int", "float", "bool", "str", "is-instance")


def _complaint(prefix: str, detail: Any, fields: dict[str, Any]) -> str:
    key = prefix + ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        for part in detail["loc"][:-1]:
            fields = getattr(fields[part].annotation, "model_fields", {})
        return f"{key}: no such key{did_you_mean(detail['loc'][-1], fields)}"
    return f"{key}={shown(detail['input'])}: {detail['msg']}"


# pydantic's complaints in the words of somebody who types a config.
WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a word",
    "list_type": "must be a list, [A,B]",
    "tuple_type": "must be a list, [A,B]",
    "sequence_str": "must be a list, [A,B]",
    "missing": "has too few values",
    "too_long": "has too many values",
    "none_required": "must be null",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "model_type": "has keys of its own: type them one by one",
    "dict_type": "has keys of its own: type them one by one",
}


def said(error: ValidationError) -> list[dict[str, Any]]:
    """pydantic's complaints, reworded."""
    found = []
    for detail in error.errors():
        words = WORDS.get(detail["type"])
        plain = detail["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
        found.append(detail | {"msg": words.format(**detail.get("ctx", {})) if words else plain})
    return found


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


def _bind(group: str, path: str, node: Any, trust: list[str]) -> list[str]:
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
        details = [detail for detail in said(error) if detail["type"] != "is_instance_of"] or said(error)
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
