"""Callables that a `_target_` may name, and the objects built from them. Every node is checked before it is built.

Values of a node are plain: an interpolation (`${...}`) is resolved where a config is composed, before any check, and
is text here. Of Hydra's own keys a nested node may have `_partial_` alone.
"""

import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from runner.core.errors import ConfigError

# Packages that a `_target_` may name without `trust`. The object itself must come from there as well, because a path
# may lead out through a module's own imports (`runner.build.data.json...`).
TRUSTED = (
    "runner",
    "torch.optim",
    "torch.nn",
    "torchvision.models",
    "torchvision.transforms",
    "torchvision.ops",
)
FUNCTIONS = {"data": "load", "model": "build", "optimizer": "build"}  # group -> its options' function
BASES = {"task": "runner.task.base.Task", "surface": "runner.surface.base.Surface"}  # bases of other options
PURE = ("torch.nn.functional", "torch.nn.init")  # modules whose functions only compute
DEEPEST = 32  # levels of a node


def locate(path: str, target: Any, trust: list[str]) -> Callable[..., Any]:
    """Return the callable that a `_target_` names. Raises `ConfigError` where it is no option of a trusted package.

    path: of the node in the config; it begins with the group.
    """
    if not isinstance(target, str) or target == "???":
        raise ConfigError(f"{path}._target_ is missing: give the dotted path of a class, {path}._target_=PACKAGE.CLASS")
    trusted = (*TRUSTED, *trust)
    if not _is_from(target, trusted):
        package = target.partition(".")[0]
        raise ConfigError(
            f"{path}._target_={target}: not from a trusted package ({', '.join(trusted)}); "
            f"if you trust it, add trust=[{package}]"
        )
    try:
        symbol = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}._target_={target}: cannot be imported ({error})") from error
    module = getattr(symbol, "__module__", None) or type(symbol).__module__
    if not callable(symbol) or not _is_from(module, trusted):
        raise ConfigError(f"{path}._target_={target}: leads to {module}, which is not from a trusted package")
    group = path.partition(".")[0]
    if _is_from(module, ("runner",)):
        if not _is_option(symbol, module, group):
            raise ConfigError(f"{path}._target_={target}: is no option of {group}; those are in runner.{group}")
    elif not _is_from(module, tuple(trust)) and not _is_part(symbol, module):
        raise ConfigError(
            f"{path}._target_={target}: is no layer, model, optimizer or transform of {module.partition('.')[0]}"
        )
    return symbol


def _is_from(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_option(symbol: Any, module: str, group: str) -> bool:
    """Return whether an object is an option of a group, and no helper beside it (some of those write files)."""
    from torch import nn, optim

    from runner.core.option import Option

    if not _is_from(module, (f"runner.{group}",)):
        return False
    if inspect.isclass(symbol):
        bases = [pkgutil.resolve_name(BASES[group])] if group in BASES else []
        return issubclass(symbol, (Option, nn.Module, optim.Optimizer, *bases))
    return inspect.isfunction(symbol) and symbol.__qualname__ == FUNCTIONS.get(group)


def _is_part(symbol: Any, module: str) -> bool:
    """Return whether an object is a part of networks or pipelines; some of torch's helpers fetch and unpickle files."""
    from torch import nn, optim

    if inspect.isclass(symbol):
        kinds = (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler)
        return issubclass(symbol, kinds) or _is_from(module, ("torchvision.transforms",))
    if not inspect.isfunction(symbol):
        return False
    return module in PURE or _is_builder(symbol)


def _is_builder(symbol: Callable[..., Any]) -> bool:
    """Return whether a function builds one of torchvision's classifiers."""
    from torchvision import models

    name = symbol.__name__
    return name in models.list_models(module=models) and models.get_model_builder(name) is symbol


def nested_complaints(path: str, value: Any, trust: list[str], depth: int = 0) -> Iterator[str]:
    """Yield a line for each `_target_` of a node, at any depth, that may not be called or has unknown keys."""
    if depth > DEEPEST:
        yield f"{path}: more than {DEEPEST} levels deep"
    elif isinstance(value, dict):
        if "_target_" in value:
            try:
                locate(path, value["_target_"], trust)
            except ConfigError as error:
                yield str(error)
            if depth:
                yield from _unfit_keys(path, value)
        for key, inner in value.items():
            yield from nested_complaints(f"{path}.{key}", inner, trust, depth + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from nested_complaints(f"{path}.{number}", inner, trust, depth + 1)


def _unfit_keys(path: str, node: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in node.items():
        if not isinstance(key, str):
            yield f"{path}.{key}: the keys of a node are names of arguments, not numbers"
        elif key == "_partial_":
            if not isinstance(value, bool):
                yield f"{path}._partial_={value}: must be true or false"
        elif key.startswith("_") and key != "_target_":
            yield f"{path}.{key}: no such key; beside its arguments a nested node has _target_ and _partial_"


def downloads(path: str, value: Any) -> Iterator[str]:
    """Yield the dotted keys of a node by which torchvision's builders would fetch weights."""
    if isinstance(value, dict):
        target = value.get("_target_")
        if isinstance(target, str) and _is_from(target, ("torchvision",)):
            yield from (f"{path}.{key}" for key, inner in value.items() if "weights" in key and inner is not None)
        for key, inner in value.items():
            yield from downloads(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from downloads(f"{path}.{number}", inner)


def construct(path: str, node: Mapping[str, Any], trust: list[str], **arguments: Any) -> Any:
    """Build a node's object: call its target with the node's other keys and further arguments.

    Raises `ConfigError` where its target, or one nested below it, may not be called.
    """
    target = locate(path, node["_target_"], trust)
    keys = {key: _constructed(f"{path}.{key}", value, trust) for key, value in node.items() if key != "_target_"}
    return target(**keys | arguments)


def _constructed(path: str, value: Any, trust: list[str]) -> Any:
    """Return a copy of a value in which every node is the object that it describes."""
    if isinstance(value, list | tuple):
        return [_constructed(f"{path}.{number}", inner, trust) for number, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {key: _constructed(f"{path}.{key}", inner, trust) for key, inner in value.items()}
    if complaints := list(_unfit_keys(path, value)):
        raise ConfigError("; ".join(complaints))
    if value.get("_partial_"):
        node = {key: inner for key, inner in value.items() if key != "_partial_"}
        target = locate(path, node.pop("_target_"), trust)
        return functools.partial(target, **{k: _constructed(f"{path}.{k}", v, trust) for k, v in node.items()})
    return construct(path, {key: inner for key, inner in value.items() if key != "_partial_"}, trust)
