"""Networks for the items of the regularization stack."""

from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.resnet import ResNet

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}


def networks():
    return {
        "mlp": MLP([16, 8], **SHAPE),
        "convnet": ConvNet([4, 4], 8, **SHAPE),
        "resnet20": ResNet(20, **SHAPE),
    }
