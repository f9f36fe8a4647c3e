"""Standard evaluation: one forward pass in eval mode."""

from torch import Tensor, nn

from runner.data.normalize import Normalize
from runner.evaluation.base import Evaluation, predict


class Standard(Evaluation):
    def log_probabilities(self, model: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
        return predict(model, normalize(images))[None]
