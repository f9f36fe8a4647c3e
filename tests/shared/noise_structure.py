"""Networks whose branches or regions are drawn."""

import torch
from scipy import stats

from runner.model.torchvision_model import build as torchvision_model
from runner.task.resources import Resources
from tests.shared.configs import GROUP_OPTIONS, REQUIRED, yaml_of
from tests.shared.training import splits

PASSES = 20_000
SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
OPTIONS = [option for option in GROUP_OPTIONS if option.startswith("model/") and option not in REQUIRED]
NODES = {option.partition("/")[2]: yaml_of(option) for option in OPTIONS}


def bound(count):
    """Standard deviations that one set of `count` normal values in a million exceeds."""
    return stats.norm.isf(1e-6 / (2 * count))


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def meta(name, size=32):
    with torch.device("meta"):
        return torchvision_model(name, in_channels=3, num_classes=3, image_size=size)


def built(node, size):
    with torch.device("meta"):
        return Resources().model({"model": node, "seed": 0, "trust": []}, splits(side=size, channels=3))
