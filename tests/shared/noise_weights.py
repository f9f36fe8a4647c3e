"""Layers with noise on weights or activations, and means of their passes."""

import math

import torch
from scipy import stats
from torch import nn

from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.resnet import ResNet

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
PASSES = 20_000
NETWORKS = {
    "mlp": lambda: MLP([16, 8], **SHAPE),
    "convnet": lambda: ConvNet([4, 4], 8, **SHAPE),
    "resnet20": lambda: ResNet(20, **SHAPE),
}


def network(name, seed=0):
    torch.manual_seed(seed)
    return NETWORKS[name]()


def agree(found, expected, deviation, passes=PASSES):
    """Whether the means of passes are all within what chance allows: one set of passes in a million is outside."""
    bound = stats.norm.isf(1e-6 / (2 * expected.numel())) * deviation / math.sqrt(passes)
    return bool(((found - expected).abs() < bound).all())


def lone(layer, item, draws):
    """A layer, float64, that an item has changed, as the second of a network whose first does nothing."""
    torch.manual_seed(1)
    first = type(layer)(layer.in_features, 1) if isinstance(layer, nn.Linear) else nn.Conv2d(1, 1, 1)
    model = nn.Sequential(first, layer).double()
    item.modify(model, draws)
    model[0] = nn.Identity()
    return model.train()


def linear():
    torch.manual_seed(2)
    return nn.Linear(6, 5), torch.rand(1, 6, dtype=torch.float64) + 0.5


def convolution():
    torch.manual_seed(3)
    return nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.rand(1, 4, 5, 5, dtype=torch.float64) + 0.5
