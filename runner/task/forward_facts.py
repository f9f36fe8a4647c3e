"""What a rehearsal finds by sending two images through a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runner.core.startup.torch_compiler import flop_counter, plain_methods
from runner.data.splits import Splits
from runner.execution.features.cut import Cut, Rest
from runner.execution.features.eligible import Declined, foreseen
from runner.model.attention import plain_attention

if TYPE_CHECKING:
    from runner.train.parts import Parts


@dataclass(frozen=True)
class ForwardFacts:
    """What was found of a network by passes of two images."""

    logits_shape: tuple[int, ...]
    flops: int  # of one image
    cut: Cut | None  # where it is cut to train on kept features
    step_flops: int  # from there on


def forward_facts(config: dict[str, Any], parts: "Parts", splits: Splits) -> ForwardFacts:
    """Also on the meta device."""
    model, transfer = parts.model, parts.transfer
    device = next(model.parameters()).device
    images = torch.zeros(2, splits.channels, splits.size, splits.size, device=device)
    logits, flops = _counted(model.eval(), images)
    whole = ForwardFacts(tuple(logits.shape), flops, None, flops)
    if transfer.cache is False:
        return whole
    try:
        cut = foreseen(config, model, transfer, parts.pipeline, parts.stack, images)
    except Declined:
        return whole
    _, left = _counted(Rest(model.eval(), cut, device), torch.zeros(2, *cut.features.shape, device=device))
    return ForwardFacts(tuple(logits.shape), flops, cut, left)


def _counted(network: Callable[[torch.Tensor], torch.Tensor], pair: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Its answers to two images, and the floating-point operations for one."""
    with torch.no_grad(), plain_attention(), flop_counter() as counter:
        plain_methods(type(counter.mode))
        answers = network(pair)
    return answers, counter.get_total_flops() // 2
