"""One pass through the network, noise off."""

from torch import Tensor, nn

from runner.option import Option


class Standard(Option):
    def log_probabilities(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logarithms of probabilities `[B, K]` of `images [B, C, H, W]`, normalised; `model` is in evaluation mode."""
        return model(images).float().log_softmax(-1)
