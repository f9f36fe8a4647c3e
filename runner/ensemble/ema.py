"""An exponential moving average of the weights."""

from runner.core.schema import Below1
from runner.ensemble.training_run import TrainingRun
from runner.ensemble.weight_average import WeightAverage


class Ema(WeightAverage):
    """`average = d * average + (1 - d) * weights` after each step, from the first weights on.

    d is `min(decay, (1 + t) / (10 + t))` in step t = 0, 1, ...: without this warm-up a short run's average would be
    its random start for long (TensorFlow's `ExponentialMovingAverage`). Batch-norm statistics are averaged along: the
    weights that they belong to are near each other.
    """

    def __init__(self, decay: Below1 = 0.999):
        self.decay = decay

    def due(self, run: TrainingRun) -> bool:
        return True

    def share(self) -> float:
        return 1 - min(self.decay, (1 + self.count_averaged) / (10 + self.count_averaged))

    def watched(self, run: TrainingRun):
        return self.network
