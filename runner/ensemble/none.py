"""No ensemble: a single network predicts."""

from runner.ensemble.base import Ensemble


class NoEnsemble(Ensemble):
    """`ensemble=none`."""
