"""DropConnect (Wan et al. 2013): drops weights instead of activations."""

import contextlib
import copy
import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import register_parametrization

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.model.noise import Noise, mask
from runner.regularization.base import Item
from runner.regularization.layers import no_place, places

NODES = 32  # of the Gauss-Hermite quadrature; exact for polynomials up to degree 63
NONLINEAR = (  # elementwise nonlinearities; ReLU6 is a subclass of Hardtanh
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish),
)


class WeightMask(Noise):
    """Parametrization that zeros each weight with probability p while training and divides the others by `1 - p`.

    So the masked weights have the weights as their mean, which is used at test time. All images of a forward pass
    share one mask, because a parametrization has no batch axis; the paper draws one per image.
    """

    item = "dropconnect"

    def __init__(self, p: float, noise: torch.Generator | None):
        super().__init__(noise)
        self.p = p

    def forward(self, weight: Tensor) -> Tensor:
        if not self.active:
            return weight
        return weight * mask(weight, self.p, self.noise)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DropConnect(Item):
    """Random zeros in the weights (not the biases) of some layers.

    where: the layers, as for dropout; or `all`, which includes the first one.
    inference: `mean` tests with the mean weights. `gaussian` is the paper's Algorithm 2. It takes a layer's output as
    Gaussian, with the mean and variance over the masks for a fixed input. The nonlinearity after the layer, directly
    or behind a batch norm, is averaged over that Gaussian: in closed form for ReLU, else by quadrature instead of the
    paper's samples. Layers without a nonlinearity module after them (the head) use the mean weights.
    """

    def __init__(
        self,
        p: float = 0.5,
        where: Literal["linear", "conv", "head", "all"] = "linear",
        inference: Literal["mean", "gaussian"] = "mean",
    ):
        if not 0 <= p < 1:
            raise ConfigError(f"regularization.dropconnect.p={p}: must be at least 0 and below 1")
        self.p, self.where, self.inference = p, where, inference

    def check(self, context: Context) -> str | None:
        line = no_place("dropconnect", self.where, context.model, "linear, conv, head, all")
        if line or self.inference == "mean":
            return line
        key = "regularization.dropconnect.inference=gaussian"
        rest = itertools.dropwhile(lambda entry: entry[1] is not self, context.stack.items())
        if later := [name for name, item in rest if item is not self and item.overrides("modify")]:
            # Because the variance does not account for modules they add behind a layer, or changes to its weights.
            problem = f"{', '.join(later)} would change the network after it"
            return f"{key}: {problem}; list dropconnect last, or use inference=mean"
        model = copy.deepcopy(context.model)
        self.modify(model, None)
        device = next(model.parameters()).device
        images = torch.zeros(2, context.in_channels, context.image_size, context.image_size, device=device)
        if _averages_any(model, images):
            return None
        return (
            f"{key}: no nonlinearity of {type(model).__name__} reads a layer of where={self.where} directly; "
            "use inference=mean"
        )

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for name in places(model, self.where):
            layer, masks = model.get_submodule(name), WeightMask(self.p, noise)
            # `unsafe` skips the test call here, and `eval` avoids draws by later items until training begins, because
            # the network may not yet be on the generator's device.
            register_parametrization(layer, "weight", masks, unsafe=True)
            masks.eval()
            if self.inference == "gaussian":
                layer.register_forward_hook(_attach_variance, prepend=True)  # before the forward hook of a norm
        if self.inference == "gaussian":
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.register_forward_hook(_carry_variance)
                elif isinstance(module, NONLINEAR):
                    if "inplace" in vars(module):
                        module.inplace = False  # because `_average` reads the input after the forward pass
                    module.register_forward_hook(_average)


# -- the mean of a nonlinearity over a Gaussian ---------------------------------------------------------------------


def relu_mean(mean: Tensor, std: Tensor) -> Tensor:
    """Return `E[max(0, N(m, s^2))] = m Phi(m / s) + s phi(m / s)`, for s above 0."""
    z = mean / std
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return (mean * torch.special.ndtr(z) + std * density).clamp_min(0)


def quadrature_mean(function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """Return `E[f(N(m, s^2))]` by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    return sum(weight * function(mean + point * std) for point, weight in zip(points.tolist(), weights.tolist()))


# -- hooks: the variance of a layer's output is attached to the output tensor for the next module ------------------


def variance_of(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Return the variance of a masked layer's output for input x, at least float32: `(W o W)(x o x) p / (1 - p)`."""
    p = layer.parametrizations.weight[-1].p
    kind = torch.promote_types(x.dtype, torch.float32)
    weight, x = layer.weight.to(kind).square(), x.to(kind).square()
    device = x.device.type
    has_autocast = torch.amp.is_autocast_available(device)  # switched off, because squares overflow fp16
    with torch.autocast(device, enabled=False) if has_autocast else contextlib.nullcontext():
        variance = linear(x, weight) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, None)
    return variance * (p / (1 - p))


def _attach_variance(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if not layer.parametrizations.weight[-1].active:
        _attach(output, lambda: variance_of(layer, inputs[0]))


def _carry_variance(norm: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    variance = _attached(inputs[0])
    if variance is not None and norm.running_var is not None:
        factor = 1 / (norm.running_var + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight.square()
        _attach(output, lambda: variance() * factor.view(-1, *[1] * (output.ndim - 2)))


def _average(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    variance = _attached(inputs[0])
    if variance is None:
        return None
    variances = variance()
    smallest = torch.finfo(variances.dtype).tiny
    mean, std = inputs[0].to(variances.dtype), variances.clamp_min(smallest).sqrt()
    average = relu_mean(mean, std) if isinstance(module, nn.ReLU) else quadrature_mean(module.forward, mean, std)
    return average.to(output.dtype)


def _attach(output: Tensor, variance: Callable[[], Tensor]) -> None:
    """Attach a function that computes the output's variance, so that it is computed only if needed."""
    output.dropconnect = output._version, variance


def _attached(x: Tensor) -> Callable[[], Tensor] | None:
    """Return the variance function attached to x, or None without one or after x was changed in place."""
    version, variance = vars(x).get("dropconnect", (None, None))
    return variance if version == x._version else None


def _averages_any(model: nn.Module, images: Tensor) -> bool:
    """Return whether any nonlinearity of a modified model receives a variance."""
    has_variance: list[bool] = []
    for module in model.modules():
        if isinstance(module, NONLINEAR):
            module.register_forward_pre_hook(lambda _, inputs: has_variance.append(_attached(inputs[0]) is not None))
    with torch.no_grad():
        model.eval()(images)
    return any(has_variance)
