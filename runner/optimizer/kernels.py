"""Optimizers of torch that can take a step of all weights in one pass over memory."""

import torch

from runner.optimizer.adam import Adam

# Kinds of devices on which torch has a kernel for the whole step. Memory is what a step waits for: on the CPU Adam's
# takes a third of the time of its eight passes (docs/benchmarks.md).
FUSED = {
    torch.optim.SGD: ("cpu", "cuda"),
    torch.optim.Adam: ("cpu", "cuda"),
    torch.optim.AdamW: ("cpu", "cuda"),
    torch.optim.Adagrad: ("cpu",),
    Adam: ("cpu", "cuda"),
}


def use_kernel(optimizer: torch.optim.Optimizer) -> None:
    """Has an optimizer of one of these classes use that kernel."""
    if isinstance(optimizer, Adam) and not optimizer.bias_correction:  # its step is our own
        return
    if type(optimizer) is torch.optim.SGD and not all(p.requires_grad for p in _weights(optimizer)):
        return  # its kernel fails where some have a momentum and others not, as in stages that thaw
    devices = FUSED.get(type(optimizer), ())
    for group in optimizer.param_groups:
        if all(p.device.type in devices and p.is_floating_point() for p in group["params"]):
            group["fused"], group["foreach"] = True, False


def _weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
