"""Stochastic weight averaging (Izmailov et al. 2018)."""

import math

from runner.core.context import Context
from runner.core.schema import Below1
from runner.ensemble.training_run import TrainingRun
from runner.ensemble.weight_average import EstimatedAverage


class Swa(EstimatedAverage):
    """Mean of the weights at the end of each epoch after `start` (algorithm 1).

    start: fraction of the epochs before the average begins.
    """

    def __init__(self, start: Below1 = 0.75):
        self.start_share = start

    def check(self, context: Context) -> str | None:
        epochs = context.config["epochs"]
        if epochs - math.ceil(self.start_share * epochs) < 2:
            return (
                f"ensemble.start={self.start_share}: leaves fewer than 2 of epochs={epochs} to average; start earlier "
                "or train longer"
            )
        return None

    def due(self, run: TrainingRun) -> bool:
        epoch, rest = divmod(run.progress.step + 1, run.steps_per_epoch)
        return rest == 0 and epoch > math.ceil(self.start_share * run.config["epochs"])
