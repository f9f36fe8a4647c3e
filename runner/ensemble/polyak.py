"""Polyak-Ruppert averaging (Polyak & Juditsky 1992) over the tail of a run (Rakhlin et al. 2012)."""

from runner.core.schema import Below1
from runner.ensemble.training_run import TrainingRun
from runner.ensemble.weight_average import EstimatedAverage


class Polyak(EstimatedAverage):
    """Mean of the weights after each step.

    start: fraction of the steps before the average begins; 0 as in Polyak & Juditsky.
    """

    def __init__(self, start: Below1 = 0.5):
        self.start_share = start

    def due(self, run: TrainingRun) -> bool:
        return run.progress.step >= int(self.start_share * run.steps)
