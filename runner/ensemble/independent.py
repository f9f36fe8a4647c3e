"""Deep ensembles: networks from different seeds (Hansen & Salamon 1990; Lakshminarayanan et al. 2017)."""

from runner.core.errors import ConfigError
from runner.core.schema import Average, Positive
from runner.ensemble.base import Ensemble


class Independent(Ensemble):
    """Ensemble of members with their own initial weights, image order, augmentation and noise; splits are shared."""

    def __init__(self, members: Positive = 5, average: Average = "probabilities"):
        if members < 2:
            raise ConfigError(f"ensemble.members={members}: an ensemble has at least 2; or ensemble=none")
        self.count, self.average = members, average
