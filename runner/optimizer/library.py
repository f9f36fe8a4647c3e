"""Optimizers of the package pytorch-optimizer (https://pytorch-optimizers.readthedocs.io), by name."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from runner.core.errors import ConfigError, did_you_mean
from runner.core.text import first_line
from runner.optimizer.base import Params


def build(params: Params, name: str, lr: float, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Build the optimizer `name` with `options`. Raises ConfigError if it is missing or cannot be used here."""
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise ConfigError(
            "optimizer=library: the package pytorch-optimizer is not installed: pip install 'runner[library]'"
        ) from error
    supported = pytorch_optimizer.get_supported_optimizers()
    known = {supported_name: pytorch_optimizer.load_optimizer(supported_name) for supported_name in supported}
    if name.lower() not in known:
        near = did_you_mean(name.lower(), known)
        raise ConfigError(f"optimizer.name={name}: pytorch-optimizer has no such optimizer{near}")
    target = known[name.lower()]
    parameters = inspect.signature(target).parameters
    if "params" not in parameters or "lr" not in parameters:
        raise ConfigError(f"optimizer.name={name}: is not built from parameters and a rate; choose another")
    if {"train", "eval"} & set(dir(target)):
        raise ConfigError(f"optimizer.name={name}: keeps other weights for evaluation, which runner does not ask for")
    keys = set(parameters) - {"params", "lr"}
    for key in options:
        if key not in keys:
            raise ConfigError(f"optimizer.options.{key}: {name} has no such key{did_you_mean(key, keys)}")
    missing = [key for key in keys - set(options) if parameters[key].default is inspect.Parameter.empty]
    missing = [key for key in missing if parameters[key].kind is not inspect.Parameter.VAR_KEYWORD]
    if missing:
        need = ", ".join(f"'+optimizer.options.{key}=VALUE'" for key in sorted(missing))
        raise ConfigError(f"optimizer.name={name}: needs {need}")
    try:
        take_a_step(target, lr, options)
    except Exception as error:
        raise ConfigError(
            f"optimizer.name={name}: does not work with plain gradients ({first_line(error)}); choose another"
        ) from error
    return target(params, lr=lr, **options)


def take_a_step(target: Callable[..., torch.optim.Optimizer], lr: float, options: dict[str, Any]) -> None:
    """Make one step on a toy problem. Raises the optimizer's error if it needs more than gradients and a closure."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.enable_grad():
        weights = [torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.ones(2))]
        optimizer = target([{"params": weights}], lr=lr, **options)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (weights[0] @ weights[1]).square().sum()
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)
