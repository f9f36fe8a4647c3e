"""Monte Carlo dropout (Gal & Ghahramani 2016), for every kind of noise in a network."""

import torch
from torch import Tensor, nn

from runner.core.context import Context
from runner.core.schema import Positive
from runner.data.normalize import Normalize
from runner.evaluation.base import Evaluation, Pipeline, predict
from runner.model.noise import noisy, sampled


class MonteCarlo(Evaluation):
    """Passes with dropout, DropConnect, stochastic depth, ... redrawn in each; norm layers stay in eval mode."""

    def __init__(self, passes: Positive = 20):
        self.passes = passes

    def check(self, context: Context) -> str | None:
        if noisy(context.model):
            return None
        return (
            f"evaluation=monte_carlo: nothing in {type(context.model).__name__} is random, all passes would be the "
            "same; use a regularization with noise ('regularization=[dropout]') or evaluation=standard"
        )

    def begin(self, pipeline: Pipeline, draws: torch.Generator) -> None:
        self.draws = draws

    def log_probabilities(self, model: nn.Module, images: Tensor, normalize: Normalize) -> Tensor:
        inputs = normalize(images)
        with sampled(model, self.draws):
            return torch.stack([predict(model, inputs) for _ in range(self.passes)])
