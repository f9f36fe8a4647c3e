"""Batch-norm statistics of weights that no step of training ever saw."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """The norms with running statistics that follow the data; those of frozen stages are in evaluation mode."""
    return [
        module
        for module in model.modules()
        if isinstance(module, BatchNorm) and module.training and module.track_running_stats
    ]


@torch.no_grad()
def estimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the running statistics to their means over `batches`, network inputs `[B, C, H, W]`.

    As torch's `swa_utils.update_bn` (Izmailov et al. 2018, algorithm 1), which however takes `model.train()` for
    granted and so moves frozen norms as well: here the model comes in the mode that training has it in.
    """
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
