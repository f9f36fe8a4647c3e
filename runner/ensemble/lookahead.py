"""Lookahead optimizer (Zhang et al. 2019): slow weights follow the fast weights, which are reset to them."""

from collections.abc import Sequence

import torch
from torch import nn

from runner.core.context import Context
from runner.core.schema import Below1, NonNegative, Positive
from runner.core.timeline import timeline
from runner.ensemble.training_run import TrainingRun
from runner.ensemble.weight_average import WeightAverage


class Lookahead(WeightAverage):
    """Every `every` steps: `slow = kept * slow + (1 - kept) * weights`, then `weights = slow` (algorithm 1, its alpha
    is `1 - kept`). The slow weights predict.

    kept is `decay * (t / T) ** power` after t of T steps. Batch-norm statistics are averaged with the weights. The
    optimizer's momentum is not changed, as in Jordan 2024 (arXiv 2404.00498, section 3.4).
    """

    def __init__(self, every: Positive = 5, decay: Below1 = 0.5, power: NonNegative = 0.0):
        self.every, self.decay, self.power = every, decay, power

    def check(self, context: Context) -> str | None:
        if context.config["optimizer"]["full_batch"]:
            return (
                "ensemble=lookahead: moves the weights between steps, and an optimizer of full batches (lbfgs, ...) "
                "goes on from where it was; use mini-batches (optimizer=sgd), or ensemble=none"
            )
        steps = timeline(context.config, context.train_size).steps
        if self.every > steps:
            return (
                f"ensemble.every={self.every}: the run has {steps} steps, the slow weights would never move; use "
                f"{steps} or less"
            )
        return None

    def begin(self, run: TrainingRun) -> None:
        super().begin(run)
        self._steps = run.steps

    def due(self, run: TrainingRun) -> bool:
        return (run.progress.step + 1) % self.every == 0

    def share(self) -> float:
        done = (self.count_averaged + 1) * self.every / self._steps
        return 1 - self.decay * done**self.power

    @torch.no_grad()
    def after_step(self, run: TrainingRun) -> None:
        super().after_step(run)
        if self.due(run):
            slow, fast = zip(*self._pairs)
            torch._foreach_copy_(fast, slow)

    def watched(self, run: TrainingRun) -> nn.Module:
        return self.network

    def compared(self, runs: Sequence[TrainingRun]) -> list[nn.Module]:
        return []  # the run's weights equal the slow ones, or are a few steps ahead of them
