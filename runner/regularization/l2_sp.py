"""L2-SP (Li, Grandvalet & Davoine 2018): decay toward the initial (pre-trained) weights instead of zero."""

import torch
from torch import Tensor, nn

from runner.core.context import Context
from runner.core.schema import NonNegative
from runner.model.stages import raw_name, stage_parameters
from runner.regularization.base import Item
from runner.regularization.l2 import half_squares


class L2SP(Item):
    """`weight / 2 * |w - w0|^2 + head_weight / 2 * |v|^2` (equation 3), without biases and norms.

    w: trainable weight matrices and kernels, with initial values w0. v: those of the head, the last stage, which is
    new.
    """

    def __init__(self, weight: NonNegative = 0.01, head_weight: NonNegative = 0.01):
        self.weight, self.head_weight = weight, head_weight
        self._start: dict[str, Tensor] = {}

    def check(self, context: Context) -> str | None:
        if context.transfer.audit is not None:
            return None
        return "regularization=[l2_sp]: no weights came to stay near to; set transfer.weights, or use l2 in its place"

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        self._start = {raw_name(name): p.detach().clone() for name, p in model.named_parameters() if p.ndim >= 2}

    def penalty(self, model: nn.Module) -> Tensor:
        *body, (_, head) = stage_parameters(model)
        differences = [
            self._difference(name, p) for _, named in body for name, p in named if p.requires_grad and p.ndim >= 2
        ]
        head_weights = [p for _, p in head if p.requires_grad and p.ndim >= 2]
        return self.weight * half_squares(differences) + self.head_weight * half_squares(head_weights)

    def _difference(self, name: str, parameter: nn.Parameter) -> Tensor:
        """Return a parameter minus its initial value."""
        key = raw_name(name)
        if self._start[key].device != parameter.device:  # the network was moved after `modify`
            self._start[key] = self._start[key].to(parameter.device)
        return parameter - self._start[key]
