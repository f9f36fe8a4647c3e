"""Checked configs and a digest of data, for fingerprints."""

from runner.build.check import check
from tests.shared.configs import composed

CONTENTS = "a" * 64
RICH = (
    "regularization=[dropout,l2]",
    "augmentation=[flip,crop]",
    "schedule=step",
    "clip_grad_norm=1",
    "early_stopping.patience=2",
)


def config(*overrides):
    return check(composed(*RICH, *overrides))
