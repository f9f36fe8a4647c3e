"""Base classes and checks of optimizers that evaluate the loss several times per step."""

import inspect
import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.model.noise import Noise, noisy
from runner.optimizer.flat_params import Flat, LossClosure

log = logging.getLogger(__name__)

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer's step requires a closure."""
    step = inspect.signature(type(optimizer).step).parameters
    return any(p.default is inspect.Parameter.empty for name, p in step.items() if name != "self")


class FullBatch(Option):
    """Base of methods that model the loss, and so need the same loss function at each evaluation."""

    label: ClassVar[str]  # name of the option, for messages
    differentiates_twice: ClassVar[bool] = False

    def check(self, context: Context) -> str | None:
        """Return why the loss would differ between evaluations, or None. Warn about mini-batches."""
        config, name = context.config, self.label
        if config["precision"] in ("bf16", "fp16"):
            return f"precision={config['precision']}: {name} compares losses to the last digits; use precision=fp32"
        if config["accumulate"] > 1:
            return f"accumulate={config['accumulate']}: {name} cuts its batch into chunks by itself; use accumulate=1"
        if config["clip_grad_norm"] is not None:
            return f"clip_grad_norm={config['clip_grad_norm']}: {name} needs whole gradients; use clip_grad_norm=null"
        if config["compile"] is True and self.differentiates_twice:
            return f"compile=true: {name} needs second derivatives, which compiled networks lack; use compile=false"
        for item, mixer in context.stack.items():
            if mixer.overrides("mix") and is_random(mixer, context):
                return f"regularization=[{item}]: mixes images at random, and {name} needs a loss that stays the same"
        if layers := noisy(context.model):
            item = layers[0].item if isinstance(layers[0], Noise) else ""
            origin = f"regularization=[{item}]" if item else f"the model's own {type(layers[0]).__name__}"
            return (
                f"{origin}: draws new noise at each look, and optimizer={name} needs a loss that stays the same; "
                "leave it out, or use a mini-batch optimizer"
            )
        if not config["optimizer"]["full_batch"]:
            log.warning("optimizer.full_batch=false: %s models one loss, and each mini-batch has another", name)
        return None


def is_random(mixer: Any, context: Context) -> bool:
    """Return whether an item's `mix` draws from its generator."""
    generator = torch.Generator()
    before = generator.get_state()
    with torch.device("cpu"):  # the preflight runs on the meta device, which has no generators
        images = torch.zeros(2, context.in_channels, context.image_size, context.image_size)
        mixer.mix(images, torch.arange(2) % context.num_classes, context.num_classes, generator)
    return not torch.equal(before, generator.get_state())


def one_group(params: Params, name: str) -> list[dict[str, Any]]:
    """Return all parameters as one group, because a search direction has one step length.

    Raises ConfigError if the groups have different rates.
    """
    groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
    if len({group.get("lr") for group in groups}) > 1:
        raise ConfigError(f"{name} takes one step for all parameters, no rates by group: give every stage the same one")
    return [groups[0] | {"params": [p for group in groups for p in group["params"]]}]


def check_memory(name: str, matrix: str, parameters: int, size: int, max_gb: float) -> None:
    """Raise ConfigError if a square matrix over all parameters (`size` bytes an entry) exceeds the limit."""
    needed = parameters**2 * size / 1e9
    if needed > max_gb:
        raise ConfigError(
            f"{name} needs a {needed:.1f} GB {matrix} for {parameters:,} parameters (limit {max_gb:g} GB): "
            "use newton_cg or lbfgs, or a smaller model"
        )


class SecondOrder(FullBatch, torch.optim.Optimizer):
    """Base of second-order methods on one vector of parameters. Subclasses implement `iterate`."""

    def __init__(self, params: Params, lr: float, max_iter: int, tolerance_grad: float, **defaults: Any):
        defaults |= {"lr": lr, "max_iter": max_iter, "tolerance_grad": tolerance_grad}
        super().__init__(one_group(params, self.label), defaults)
        self.flat = Flat(self.param_groups[0]["params"])

    @torch.no_grad()
    def step(self, objective: LossClosure) -> Tensor:  # type: ignore[override]
        """Run up to `max_iter` iterations; return the loss at the start.

        Stops early if the gradient is below `tolerance_grad` or the loss does not decrease.
        """
        group = self.param_groups[0]
        with torch.enable_grad():
            first = loss = objective()
        for iteration in range(group["max_iter"]):
            if iteration:
                with torch.enable_grad():
                    loss = objective()
            gradient = self.flat.gradient()
            if gradient.abs().max() <= group["tolerance_grad"]:
                break
            if not self.iterate(objective, float(loss), gradient, group):
                break
        return first

    def iterate(self, objective: LossClosure, loss: float, gradient: Tensor, group: dict[str, Any]) -> bool:
        """Move the parameters, given the loss and gradient there. Return False if no step decreases the loss."""
        raise NotImplementedError
