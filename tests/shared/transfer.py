"""Small networks, and the files of their weights."""

import torch

from runner.model.convnet import ConvNet

NET = ("model=convnet", "model.channels=[4,4]", "model.hidden=8")


def network(classes=3, in_channels=1, seed=7):
    torch.manual_seed(seed)
    return ConvNet([4, 4], 8, in_channels=in_channels, num_classes=classes, image_size=8)
