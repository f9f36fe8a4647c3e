"""Error lines for config values: pydantic's errors, one line a key, in the user's words."""

from typing import Any

from pydantic import ValidationError

from runner.core.errors import ConfigError, did_you_mean
from runner.core.text import shown


class Refused(ConfigError):
    """Error with everything that is wrong with one combination, a line each."""

    def __init__(self, lines: list[str]):
        super().__init__("; ".join(lines))
        self.lines = lines


def complaints(model: type, values: dict[str, Any], prefix: str) -> list[str]:
    """Return the errors in the values of a part of the config, a line a key."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [_complaint(prefix, detail, model.model_fields) for detail in _merge_by_key(error)]
    return []


def _merge_by_key(error: ValidationError) -> list[Any]:
    """Return one error for each key: pydantic reports one for each member of a union, and their messages are joined."""
    by_key: dict[tuple, list] = {}
    for detail in reworded(error):
        key = tuple(part for part in detail["loc"] if not (isinstance(part, str) and _is_type_name(part)))
        by_key.setdefault(key, []).append(detail)
    return [
        details[0] | {"loc": key, "msg": " or ".join(dict.fromkeys(d["msg"] for d in details))}
        for key, details in by_key.items()
    ]


def _is_type_name(part: str) -> bool:
    return "[" in part or part in ("int", "float", "bool", "str", "is-instance")


def _complaint(prefix: str, detail: Any, fields: dict[str, Any]) -> str:
    key = prefix + ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        for part in detail["loc"][:-1]:
            fields = getattr(fields[part].annotation, "model_fields", {})
        return f"{key}: no such key{did_you_mean(detail['loc'][-1], fields)}"
    if detail["type"] == "missing" and isinstance(detail["loc"][-1], str):  # not an item of a list
        return f"{key} is missing: leave ~{key} out, or type {key}=VALUE"
    return f"{key}={shown(detail['input'])}: {detail['msg']}"


# type of pydantic's error -> message for users who type a config
MESSAGES = {
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


def reworded(error: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's errors with messages for users who type a config."""
    details = []
    for detail in error.errors():
        message = MESSAGES.get(detail["type"])
        default = detail["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
        details.append(detail | {"msg": message.format(**detail.get("ctx", {})) if message else default})
    return details
