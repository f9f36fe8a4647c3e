"""The hooks of a regularization item: none does anything until an item overrides it."""

import torch
from torch import Tensor, nn

from runner.core.option import Option


class Item(Option):
    """One item of the stack `regularization=[a,b,...]`; hooks are called in the stack's order."""

    keeps_images = False  # whether `mix` changes targets alone

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        """Surgery before training. Random layers draw from `noise`, the run's own generator on its device."""

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images `[B, C, H, W]` and targets (`[B]` labels, or `[B, K]` probabilities) of a training batch."""
        return images, targets

    def penalty(self, model: nn.Module) -> Tensor:
        """A term of the loss, from the weights."""
        raise NotImplementedError

    def output_penalty(self, logits: Tensor) -> Tensor:
        """A term of the loss, from the training batch's logits `[B, K]`."""
        raise NotImplementedError

    def after_step(self, model: nn.Module) -> None:
        """After each step of the optimizer."""


def soft(targets: Tensor, num_classes: int) -> Tensor:
    """Targets as probabilities `[B, K]`; labels become one-hot rows."""
    if targets.ndim == 2:
        return targets
    return torch.nn.functional.one_hot(targets, num_classes).float()


def weights(model: nn.Module) -> list[nn.Parameter]:
    """Trainable weight matrices and kernels: what decay means, no biases and no norms."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2]
