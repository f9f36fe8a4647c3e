"""Base class of regularization items. A hook has an effect only where an item overrides it."""

import torch
from torch import Tensor, nn

from runner.core.option import Option


class Item(Option):
    """One item of the stack `regularization=[a,b,...]`; hooks are called in the stack's order."""

    keeps_images = False  # True if `mix` changes only targets

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        """Modify the model before training. Random layers draw from `noise`, the run's generator on its device."""

    def mix(
        self, images: Tensor, targets: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a training batch's new images `[B, C, H, W]` and targets (`[B]` labels or `[B, K]` probabilities)."""
        return images, targets

    def penalty(self, model: nn.Module) -> Tensor:
        """Return a loss term that depends on the weights."""
        raise NotImplementedError

    def output_penalty(self, logits: Tensor) -> Tensor:
        """Return a loss term that depends on the training batch's logits `[B, K]`."""
        raise NotImplementedError

    def after_step(self, model: nn.Module) -> None:
        """Change the weights after each optimizer step."""


def soft(targets: Tensor, num_classes: int) -> Tensor:
    """Return targets as probabilities `[B, K]`. Labels become one-hot rows."""
    if targets.ndim == 2:
        return targets
    return torch.nn.functional.one_hot(targets, num_classes).float()


def weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable weight matrices and kernels, without biases and norms, as for weight decay."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2]
