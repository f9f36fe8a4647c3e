"""Normalization layers: where they go in a network, and how they are put there."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from runner.core.context import Context
from runner.regularization.base import Item

# What a network may be normalized with already.
KINDS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    torchvision.ops.FrozenBatchNorm2d,
)


class Norms(Item):
    """What the norm items share: each convolution and linear layer but the last gets a norm of its own, on what the
    layer gives and so before the nonlinearity (Ioffe & Szegedy 2015, section 3.2).

    The norm is the layer's child `norm`, called by a forward hook: the names of all other weights stay.
    """

    def norm(self, layer: nn.Module, channels: int, **factory: Any) -> nn.Module:
        """A norm for what a layer gives: `[B, channels, H, W]` of a convolution, else `[B, channels]`."""
        raise NotImplementedError

    def check(self, context: Context) -> str | None:
        names, model = list(context.stack), type(context.model).__name__
        own = next(name for name, item in context.stack.items() if item is self)
        for other in names[: names.index(own)]:
            if isinstance(context.stack[other], Norms):
                return f"regularization=[{other},{own}]: both put norms after the same layers; leave one of them out"
        for name, module in context.model.named_modules():
            if isinstance(module, KINDS):
                return (
                    f"regularization=[{own}]: {model} has norms already ({name} is a {type(module).__name__}); use a "
                    f"model that has none, e.g. model=convnet, or leave {own} out"
                )
        if not hidden_layers(context.model):
            return (
                f"regularization=[{own}]: {model} has no convolution or linear layer before its last; use a deeper "
                f"model, e.g. model=convnet, or leave {own} out"
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
    """Convolutions and linear layers with their dotted names, without the last, which gives the logits."""
    # Attention reads its projection's weight without calling the layer: no hook of it is ever called.
    inside = {id(m) for a in model.modules() if isinstance(a, nn.MultiheadAttention) for m in a.modules()}
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and id(layer) not in inside
    ][:-1]


def channels(layer: nn.Conv2d | nn.Linear) -> int:
    """Channels, or features, that a layer gives."""
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def _cancels_bias(norm: nn.Module) -> bool:
    """Whether each channel is normalized alone, so that a constant added to it is subtracted again."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups == norm.num_channels
    return isinstance(norm, nn.modules.batchnorm._BatchNorm)


def _hold_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Makes the bias a buffer, under its name.

    Behind the norm its gradient is nothing but rounding, of which adaptive optimizers would make whole steps, and the
    running mean would lag behind these. Frozen it could be thawed.
    """
    bias = layer.bias.detach()
    del layer.bias
    layer.register_buffer("bias", bias)


def _normalize(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Channels are the second axis; but the features of a linear layer that gives tokens `[B, T, F]` are the last."""
    if output.ndim == 3 and isinstance(layer, nn.Linear) and not isinstance(layer.norm, nn.LayerNorm):
        return layer.norm(output.mT).mT
    return layer.norm(output)
