"""Exponential moving average of the weights."""

from runner.core.schema import Below1
from runner.ensemble.training_run import TrainingRun
from runner.ensemble.weight_average import WeightAverage


class Ema(WeightAverage):
    """Exponential moving average: `average = d * average + (1 - d) * weights` after each step, from the first on.

    d is `min(decay, (1 + t) / (10 + t))` in step t = 0, 1, ..., as in TensorFlow's `ExponentialMovingAverage`. Without
    this warm-up the random initial weights would dominate a short run's average. Batch-norm statistics are averaged
    with the weights, because successive weights differ little.
    """

    def __init__(self, decay: Below1 = 0.999):
        self.decay = decay

    def due(self, run: TrainingRun) -> bool:
        return True

    def share(self) -> float:
        return 1 - min(self.decay, (1 + self.count_averaged) / (10 + self.count_averaged))

    def watched(self, run: TrainingRun):
        return self.network
