"""One pass through the network, noise off."""

from torch import Tensor, nn

from runner.data.normalize import Normalize
from runner.evaluation.base import Evaluation, answer


class Standard(Evaluation):
    def log_probabilities(self, model: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
        return answer(model, normalize(images))[None]
