"""The multi-layer perceptron."""

from collections import OrderedDict

from pydantic import PositiveInt
from torch import nn


class MLP(nn.Sequential):
    """Flatten, then `Linear, ReLU` for each width in `hidden`, then the linear head.

    Images [B, C, H, W] to logits [B, K]. `hidden=[]` is softmax regression. Weights and biases have the
    default init of `nn.Linear`: uniform within ±1/sqrt(inputs).
    """

    def __init__(self, hidden: list[PositiveInt], *, in_channels: int, num_classes: int, image_size: int):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = in_channels * image_size**2
        for index, units in enumerate(hidden, start=1):
            layers[f"linear{index}"] = nn.Linear(width, units)
            layers[f"relu{index}"] = nn.ReLU()
            width = units
        layers["head"] = nn.Linear(width, num_classes)
        super().__init__(layers)
