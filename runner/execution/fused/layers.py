"""Stacked layers: forward functions of layers with weights for N networks at once.

Activations have concatenated channels, `[B, N * C, ...]`, or are `Broadcast`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.execution.fused.broadcast import Broadcast, repeat_channels, unmark

StackedForward = Callable[[Tensor], Tensor]


def _same(members: Iterable[nn.Module], *names: str) -> bool:
    """Return whether layers agree in all these attributes."""
    attributes = [tuple(getattr(member, name) for name in names) for member in members]
    return all(values == attributes[0] for values in attributes)


def _linear(module: nn.Linear, members: list[nn.Module]) -> StackedForward:
    count = len(members)

    def forward(x: Tensor) -> Tensor:
        if isinstance(x, Broadcast) and x.ndim == 2:
            bias = None if module.bias is None else module.bias.flatten()
            return F.linear(unmark(x), module.weight.flatten(0, 1), bias)
        parts = repeat_channels(x, count).unflatten(1, (count, -1))  # [B, N, F]
        if torch.is_autocast_enabled(x.device.type):
            output = parts.transpose(0, 1) @ module.weight.mT
            output = (output if module.bias is None else output + module.bias.unsqueeze(1)).transpose(0, 1)
        else:
            output = _Linear.apply(parts, module.weight, module.bias)
        return output.flatten(1)

    return forward


class _Linear(torch.autograd.Function):
    """`x @ W^T + b` of N layers: x [B, N, F], W [N, K, F], b [N, K] or None, giving [B, N, K].

    It avoids copies: torch's own batched product orders its result [N, B, K] in memory, which would be copied, as would
    the gradient of the weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _batched_product(x, weight.mT, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        by_network = gradient.transpose(0, 1)  # [N, B, K]
        return (
            _batched_product(gradient, weight, None) if needs_x else None,
            torch.bmm(by_network.mT, x.transpose(0, 1)) if needs_weight else None,
            _sum_batch(by_network) if needs_bias else None,
        )


def _sum_batch(gradient: Tensor) -> Tensor:
    """Sum `[N, B, K]` over the batch."""
    # by a product, because the order of a sum would depend on the number of networks
    return torch.bmm(gradient.new_ones(1, 1, gradient.shape[1]).expand(len(gradient), -1, -1), gradient).squeeze(1)


def _batched_product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """Return `left[:, n] @ right[n] + bias[n]` for all n, `[B, N, K]`."""
    output = left.new_empty(*left.shape[:2], right.shape[2])
    parts, out = left.transpose(0, 1), output.transpose(0, 1)
    if bias is None:
        torch.bmm(parts, right, out=out)
    else:
        torch.baddbmm(bias.unsqueeze(1), parts, right, out=out)
    return output


def _conv(module: nn.Conv2d, members: list[nn.Module]) -> StackedForward | None:
    if module.padding_mode != "zeros" or not _same(members, "stride", "padding", "dilation", "groups"):
        return None
    count = len(members)

    def forward(x: Tensor) -> Tensor:
        weight, bias = module.weight.flatten(0, 1), None if module.bias is None else module.bias.flatten()
        options = module.stride, module.padding, module.dilation
        if isinstance(x, Broadcast) and module.groups == 1:
            return F.conv2d(unmark(x), weight, bias, *options)
        x = repeat_channels(x, count)
        if count > 1 or module.groups > 1:
            return F.conv2d(x, weight, bias, *options, count * module.groups)
        # a single network is computed twice in two groups, because without groups another kernel rounds differently
        doubled = [None if tensor is None else torch.cat((tensor, tensor)) for tensor in (weight, bias)]
        output = F.conv2d(torch.cat((x, x), 1), *doubled, *options, 2)
        return output.narrow(1, 0, output.shape[1] // 2)

    return forward


def _batch_norm(module: nn.modules.batchnorm._BatchNorm, members: list[nn.Module]) -> StackedForward | None:
    if module.momentum is None or not module.track_running_stats or not _same(members, "momentum", "eps", "affine"):
        return None
    count = len(members)

    def forward(x: Tensor) -> Tensor:
        if module.training:
            module.num_batches_tracked.add_(1)
        weight, bias = (None if tensor is None else tensor.flatten() for tensor in (module.weight, module.bias))
        mean, variance = module.running_mean.view(-1), module.running_var.view(-1)
        return F.batch_norm(
            repeat_channels(x, count), mean, variance, weight, bias, module.training, module.momentum, module.eps
        )

    return forward


def _group_norm(module: nn.GroupNorm, members: list[nn.Module]) -> StackedForward | None:
    if not _same(members, "num_groups", "eps", "affine"):
        return None
    count = len(members)
    groups = count * module.num_groups

    def forward(x: Tensor) -> Tensor:
        weight, bias = (None if tensor is None else tensor.flatten() for tensor in (module.weight, module.bias))
        return F.group_norm(repeat_channels(x, count), groups, weight, bias, module.eps)

    return forward


# layer class -> function that makes its stacked forward; None: these options cannot be stacked
STACKED: dict[type[nn.Module], Callable[[Any, list[nn.Module]], StackedForward | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
}
