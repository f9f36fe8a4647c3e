"""The small convolutional network of the course books, after LeCun et al. 1998 (LeNet)."""

from collections import OrderedDict

from pydantic import PositiveInt
from torch import nn

from runner.core.errors import ConfigError


class ConvNet(nn.Sequential):
    """`Conv 3x3 (padding 1), ReLU, max-pool 2` for each width in `channels`, then `Linear, ReLU, Linear`.

    Images [B, C, H, W] to logits [B, K]. With `channels=[32, 64]`, `hidden=128`: conv3x3-32, ReLU, pool,
    conv3x3-64, ReLU, pool, flatten, linear 128, ReLU, linear K; 421,642 parameters for 1x28x28 and ten
    classes. Without norms, so that the norms of the regularization stack can be added. Weights have torch's default
    init.
    """

    def __init__(
        self,
        channels: list[PositiveInt],
        hidden: PositiveInt,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int,
    ):
        smallest = 2 ** len(channels)
        if image_size < smallest:
            raise ConfigError(
                f"model.channels={list(channels)} halves the image {len(channels)} times and needs at least "
                f"{smallest} pixels a side, not {image_size}: give fewer channels or larger images"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, size = in_channels, image_size
        for index, filters in enumerate(channels, start=1):
            layers[f"conv{index}"] = nn.Conv2d(width, filters, kernel_size=3, padding=1)
            layers[f"relu{index}"] = nn.ReLU()
            layers[f"pool{index}"] = nn.MaxPool2d(2)
            width, size = filters, size // 2
        layers["flatten"] = nn.Flatten()
        layers["hidden"] = nn.Linear(width * size**2, hidden)
        layers["relu"] = nn.ReLU()
        layers["head"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
