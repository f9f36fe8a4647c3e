"""Estimation of batch-norm statistics for averaged weights."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """Return the batch norms in train mode with running statistics; frozen stages' norms are in eval mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, BatchNorm) and module.training and module.track_running_stats
    ]


@torch.no_grad()
def estimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics to their means over `batches` of inputs `[B, C, H, W]` (Izmailov et al. 2018, alg. 1).

    The model's training flags are kept as they are.
    """
    # not torch's `swa_utils.update_bn`, because it calls `model.train()` and so changes frozen norms as well
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average over batches
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
