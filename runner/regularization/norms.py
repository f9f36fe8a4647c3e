"""Base of the items that insert normalization layers into a network."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from runner.core.context import Context
from runner.regularization.base import Item

# Norms that a network may already have.
KINDS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    torchvision.ops.FrozenBatchNorm2d,
)


class Norms(Item):
    """Base of the norm items: a norm after each convolution and linear layer except the last.

    It normalizes the layer's output, before the nonlinearity (Ioffe & Szegedy 2015, section 3.2). The norm is the
    layer's child `norm`, called by a forward hook, so that the names of all other weights stay.
    """

    def norm(self, layer: nn.Module, channels: int, **factory: Any) -> nn.Module:
        """Return a norm for a layer's output: `[B, channels, H, W]` of a convolution, else `[B, channels]`."""
        raise NotImplementedError

    def check(self, context: Context) -> str | None:
        names, model = list(context.stack), type(context.model).__name__
        key = next(name for name, item in context.stack.items() if item is self)
        for earlier in names[: names.index(key)]:
            if isinstance(context.stack[earlier], Norms):
                return f"regularization=[{earlier},{key}]: both put norms after the same layers; leave one of them out"
        for name, module in context.model.named_modules():
            if isinstance(module, KINDS):
                return (
                    f"regularization=[{key}]: {model} has norms already ({name} is a {type(module).__name__}); use a "
                    f"model that has none, e.g. model=convnet, or leave {key} out"
                )
        if not hidden_layers(context.model):
            return (
                f"regularization=[{key}]: {model} has no convolution or linear layer before its last; use a deeper "
                f"model, e.g. model=convnet, or leave {key} out"
            )
        return None

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for _, layer in hidden_layers(model):
            like = next(layer.parameters())
            norm = self.norm(layer, channels(layer), device=like.device, dtype=like.dtype)
            layer.add_module("norm", norm)
            layer.register_forward_hook(_normalize)
            if layer.bias is not None and _cancels_bias(norm):
                _hold_bias(layer)


def hidden_layers(model: nn.Module) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
    """Return the convolutions and linear layers with their dotted names, except the last, which computes logits."""
    # Excludes attention: it uses the weight of its projection without calling the layer, so hooks would not run.
    in_attention = {id(m) for a in model.modules() if isinstance(a, nn.MultiheadAttention) for m in a.modules()}
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and id(layer) not in in_attention
    ][:-1]


def channels(layer: nn.Conv2d | nn.Linear) -> int:
    """Return the number of a layer's output channels or features."""
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def _cancels_bias(norm: nn.Module) -> bool:
    """Return whether the norm subtracts each channel's mean, and so cancels a bias before it."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups == norm.num_channels
    return isinstance(norm, nn.modules.batchnorm._BatchNorm)


def _hold_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Turn the bias into a buffer of the same name, so that it does not train."""
    # Because before a norm its gradient is only rounding error. Adaptive optimizers would scale that to full steps,
    # and the running mean would lag behind them. A frozen parameter is no alternative: it could be unfrozen.
    bias = layer.bias.detach()
    del layer.bias
    layer.register_buffer("bias", bias)


def _normalize(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Apply the norm to axis 1, or to the last axis for a linear layer's tokens `[B, T, F]`."""
    if output.ndim == 3 and isinstance(layer, nn.Linear) and not isinstance(layer.norm, nn.LayerNorm):
        return layer.norm(output.mT).mT
    return layer.norm(output)
