"""Facts about a network from a forward pass of two images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runner.core.startup.torch_compiler import flop_counter, unwrap_methods
from runner.data.splits import Splits
from runner.execution.features.cut import Cut, Rest
from runner.execution.features.eligible import Declined, plan_cut
from runner.model.attention import plain_attention

if TYPE_CHECKING:
    from runner.train.parts import Parts


@dataclass(frozen=True)
class ForwardFacts:
    """Shape of the logits and operations of a forward pass."""

    logits_shape: tuple[int, ...]
    flops: int  # of one image
    cut: Cut | None  # where it is cut to train on cached features; None: not cut
    step_flops: int  # of one image, from the cut on


def forward_facts(config: dict[str, Any], parts: "Parts", splits: Splits) -> ForwardFacts:
    """Return the facts of a network from a forward pass; it may be on the meta device."""
    model, transfer = parts.model, parts.transfer
    device = next(model.parameters()).device
    images = torch.zeros(2, splits.channels, splits.size, splits.size, device=device)
    logits, flops = _count_flops(model.eval(), images)
    uncut = ForwardFacts(tuple(logits.shape), flops, None, flops)
    if transfer.cache is False:
        return uncut
    try:
        cut = plan_cut(config, model, transfer, parts.pipeline, parts.stack, images)
    except Declined:
        return uncut
    _, rest_flops = _count_flops(Rest(model.eval(), cut, device), torch.zeros(2, *cut.features.shape, device=device))
    return ForwardFacts(tuple(logits.shape), flops, cut, rest_flops)


def _count_flops(network: Callable[[torch.Tensor], torch.Tensor], pair: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the logits of two images, and the floating-point operations for one."""
    with torch.no_grad(), plain_attention(), flop_counter() as counter:
        unwrap_methods(type(counter.mode))
        logits = network(pair)
    return logits, counter.get_total_flops() // 2
