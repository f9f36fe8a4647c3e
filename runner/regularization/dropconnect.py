"""DropConnect (Wan et al. 2013): weights instead of activations are dropped."""

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

NODES = 32  # of the Gauss-Hermite quadrature
NONLINEAR = (  # all act on each activation alone; Hardtanh has ReLU6 below it
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish),
)


class WeightMask(Noise):
    """A parametrization: zeros each weight with probability p while training; kept ones are divided by `1 - p`.

    The mean of the masked weights is the weight, which testing uses. A parametrization knows no samples: all images
    of a forward pass share one mask, where the paper draws one for each.
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
    """Drops weights, not biases, of the layers that `where` names: as for dropout, or `all`, the first one included.

    inference: `mean` tests with the mean weights. `gaussian` is the paper's Algorithm 2: what a dropped layer puts out
    is taken as a Gaussian with the mean and the variance that the masks give it, and the nonlinearity that reads it,
    directly or through a batch norm, is averaged over that Gaussian: exactly for ReLU, for others by quadrature in
    place of the paper's samples. What the layer reads counts as certain. Layers that no nonlinearity module reads
    (the head) test with the mean weights.
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
        since = itertools.dropwhile(lambda named: named[1] is not self, context.stack.items())
        if later := [name for name, item in since if item is not self and item.overrides("modify")]:
            # What these put between a layer and its nonlinearity, or on its weights, would go unseen.
            words = f"{', '.join(later)} would change the network after it"
            return f"{key}: {words}; list dropconnect last, or use inference=mean"
        model = copy.deepcopy(context.model)
        self.modify(model, None)
        device = next(model.parameters()).device
        images = torch.zeros(2, context.in_channels, context.image_size, context.image_size, device=device)
        if _averages(model, images):
            return None
        return (
            f"{key}: no nonlinearity of {type(model).__name__} reads a layer of where={self.where} directly; "
            "use inference=mean"
        )

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for name in places(model, self.where):
            layer, masks = model.get_submodule(name), WeightMask(self.p, noise)
            # Not tried out here (`unsafe`), nor by items that come later (`eval`, until training begins): the network
            # may not yet be on the generator's device.
            register_parametrization(layer, "weight", masks, unsafe=True)
            masks.eval()
            if self.inference == "gaussian":
                layer.register_forward_hook(_leave_variance, prepend=True)  # before a norm that hangs on the layer
        if self.inference == "gaussian":
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.register_forward_hook(_carry_variance)
                elif isinstance(module, NONLINEAR):
                    if "inplace" in vars(module):
                        module.inplace = False  # the mean is needed afterwards
                    module.register_forward_hook(_average)


# -- the mean of a nonlinearity over a Gaussian ---------------------------------------------------------------------


def relu_mean(mean: Tensor, std: Tensor) -> Tensor:
    """`E[max(0, N(m, s^2))] = m Phi(m / s) + s phi(m / s)`, for s above 0."""
    z = mean / std
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return (mean * torch.special.ndtr(z) + std * density).clamp_min(0)


def quadrature_mean(function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """`E[f(N(m, s^2))]` by Gauss-Hermite quadrature, exact for polynomials up to degree 63."""
    points, shares = np.polynomial.hermite_e.hermegauss(NODES)
    shares = shares / shares.sum()
    return sum(share * function(mean + point * std) for point, share in zip(points.tolist(), shares.tolist()))


# -- hooks: a dropped layer's variance goes with its output to the module that reads it -----------------------------


def variance_of(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Variance, float32 at least, of a dropped layer's output for input x: `(W o W)(x o x) p / (1 - p)`."""
    p = layer.parametrizations.weight[-1].p
    kind = torch.promote_types(x.dtype, torch.float32)
    weight, x = layer.weight.to(kind).square(), x.to(kind).square()
    half = torch.amp.is_autocast_available(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if half else contextlib.nullcontext():  # squares overflow fp16
        found = linear(x, weight) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, None)
    return found * (p / (1 - p))


def _leave_variance(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if not layer.parametrizations.weight[-1].active:
        _leave(output, lambda: variance_of(layer, inputs[0]))


def _carry_variance(norm: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    variance = _left(inputs[0])
    if variance is not None and norm.running_var is not None:
        factor = 1 / (norm.running_var + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight.square()
        _leave(output, lambda: variance() * factor.view(-1, *[1] * (output.ndim - 2)))


def _average(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    variance = _left(inputs[0])
    if variance is None:
        return None
    found = variance()
    mean, std = inputs[0].to(found.dtype), found.clamp_min(torch.finfo(found.dtype).tiny).sqrt()
    average = relu_mean(mean, std) if isinstance(module, nn.ReLU) else quadrature_mean(module.forward, mean, std)
    return average.to(output.dtype)


def _leave(output: Tensor, variance: Callable[[], Tensor]) -> None:
    """Computed only where it is read."""
    output.dropconnect = output._version, variance


def _left(x: Tensor) -> Callable[[], Tensor] | None:
    """The variance that was left on x, unless x was changed in place since."""
    version, variance = vars(x).get("dropconnect", (None, None))
    return variance if version == x._version else None


def _averages(model: nn.Module, images: Tensor) -> bool:
    """Whether any nonlinearity of a modified model finds a variance."""
    found: list[bool] = []
    for module in model.modules():
        if isinstance(module, NONLINEAR):
            module.register_forward_pre_hook(lambda module, inputs: found.append(_left(inputs[0]) is not None))
    with torch.no_grad():
        model.eval()(images)
    return any(found)
