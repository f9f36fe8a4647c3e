"""Layers with weights, of N networks at once: what `runner.execution.fused.network` puts in the place of each.

Activations lie side by side in the channels, `[B, N * C, ...]`, or come `Broadcast` for all.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runner.execution.fused.broadcast import Broadcast, beside, plain

Form = Callable[[Tensor], Tensor]


def _same(members: Iterable[nn.Module], *names: str) -> bool:
    """Whether layers agree in all these attributes."""
    found = [tuple(getattr(member, name) for name in names) for member in members]
    return all(values == found[0] for values in found)


def _linear(module: nn.Linear, members: list[nn.Module]) -> Form:
    count = len(members)

    def forward(x: Tensor) -> Tensor:
        if isinstance(x, Broadcast) and x.ndim == 2:
            bias = None if module.bias is None else module.bias.flatten()
            return F.linear(plain(x), module.weight.flatten(0, 1), bias)
        parts = beside(x, count).unflatten(1, (count, -1))  # [B, N, F]
        if torch.is_autocast_enabled(x.device.type):
            found = parts.transpose(0, 1) @ module.weight.mT
            found = (found if module.bias is None else found + module.bias.unsqueeze(1)).transpose(0, 1)
        else:
            found = _Linear.apply(parts, module.weight, module.bias)
        return found.flatten(1)

    return forward


class _Linear(torch.autograd.Function):
    """`x @ W^T + b` of N layers: x [B, N, F], W [N, K, F], b [N, K] or None, giving [B, N, K].

    What torch's own batched products give lies in memory network by network, and would be copied; so would the
    gradient of the weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _side_by_side(x, weight.mT, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        back = gradient.transpose(0, 1)  # [N, B, K]
        return (
            _side_by_side(gradient, weight, None) if to_x else None,
            torch.bmm(back.mT, x.transpose(0, 1)) if to_weight else None,
            # A product, for a sum's order would depend on the number of networks.
            torch.bmm(back.new_ones(1, 1, len(x)).expand(len(back), -1, -1), back).squeeze(1) if to_bias else None,
        )


def _side_by_side(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """`left[:, n] @ right[n] + bias[n]`, `[B, N, K]`."""
    found = left.new_empty(*left.shape[:2], right.shape[2])
    parts, out = left.transpose(0, 1), found.transpose(0, 1)
    if bias is None:
        torch.bmm(parts, right, out=out)
    else:
        torch.baddbmm(bias.unsqueeze(1), parts, right, out=out)
    return found


def _conv(module: nn.Conv2d, members: list[nn.Module]) -> Form | None:
    if module.padding_mode != "zeros" or not _same(members, "stride", "padding", "dilation", "groups"):
        return None
    count = len(members)

    def forward(x: Tensor) -> Tensor:
        weight, bias = module.weight.flatten(0, 1), None if module.bias is None else module.bias.flatten()
        options = module.stride, module.padding, module.dilation
        if isinstance(x, Broadcast) and module.groups == 1:
            return F.conv2d(plain(x), weight, bias, *options)
        x = beside(x, count)
        if count > 1 or module.groups > 1:
            return F.conv2d(x, weight, bias, *options, count * module.groups)
        # The last one of several, beside itself: in no group it would have another kernel, and other last digits.
        twice = [None if one is None else torch.cat((one, one)) for one in (weight, bias)]
        found = F.conv2d(torch.cat((x, x), 1), *twice, *options, 2)
        return found.narrow(1, 0, found.shape[1] // 2)

    return forward


def _batch_norm(module: nn.modules.batchnorm._BatchNorm, members: list[nn.Module]) -> Form | None:
    if module.momentum is None or not module.track_running_stats or not _same(members, "momentum", "eps", "affine"):
        return None
    count = len(members)

    def forward(x: Tensor) -> Tensor:
        if module.training:
            module.num_batches_tracked.add_(1)
        weight, bias = (None if one is None else one.flatten() for one in (module.weight, module.bias))
        mean, variance = module.running_mean.view(-1), module.running_var.view(-1)
        return F.batch_norm(
            beside(x, count), mean, variance, weight, bias, module.training, module.momentum, module.eps
        )

    return forward


def _group_norm(module: nn.GroupNorm, members: list[nn.Module]) -> Form | None:
    if not _same(members, "num_groups", "eps", "affine"):
        return None
    count = len(members)
    groups = count * module.num_groups

    def forward(x: Tensor) -> Tensor:
        weight, bias = (None if one is None else one.flatten() for one in (module.weight, module.bias))
        return F.group_norm(beside(x, count), groups, weight, bias, module.eps)

    return forward


FORMS: dict[type[nn.Module], Callable[[Any, list[nn.Module]], Form | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
}
