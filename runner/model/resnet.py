"""Residual networks for 32x32 images: He, Zhang, Ren & Sun 2015, "Deep Residual Learning", section 4.2."""

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from runner.core.errors import ConfigError

WIDTHS = (16, 32, 64)
SMALLEST = 4  # pixels a side: halved twice, one is left


class ResNet(nn.Module):
    """Conv3x3-16, norm, ReLU; three stages of n = (depth - 2) / 6 blocks; global mean; linear head.

    Images [B, C, H, W] to logits [B, K]. The stages are 16, 32 and 64 wide; the second and the third begin
    with stride 2. Where the shape changes, shortcut A (the paper's choice for CIFAR) drops every second pixel and
    pads with zero channels; B is a 1x1 convolution with a norm. Convolutions have no bias and He normal init (fan
    out). For 3x32x32 and ten classes: depth 20 has 269,722 parameters with
    A and 272,474 with B, depth 56 has 853,018 and 855,770.
    """

    def __init__(
        self,
        depth: PositiveInt,
        shortcut: Literal["A", "B"] = "A",
        *,
        in_channels: int,
        num_classes: int,
        image_size: int,
    ):
        super().__init__()
        blocks = blocks_per_stage(depth, fixed=2)
        check_size(image_size)
        self.stem = nn.Sequential(
            OrderedDict(conv=conv3x3(in_channels, WIDTHS[0]), norm=nn.BatchNorm2d(WIDTHS[0]), relu=nn.ReLU())
        )
        self.stage1 = _stage(WIDTHS[0], WIDTHS[0], blocks, 1, shortcut)
        self.stage2 = _stage(WIDTHS[0], WIDTHS[1], blocks, 2, shortcut)
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2], blocks, 2, shortcut)
        self.head = nn.Linear(WIDTHS[2], num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stage1(x)
        x = self.stage2(x)
        x = self.stage3(x)
        return self.head(x.mean(dim=(2, 3)))  # because average pooling is slow under vmap


class BasicBlock(nn.Module):
    """`relu(shortcut(x) + branch(x))` with the branch conv3x3, norm, ReLU, conv3x3, norm."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Literal["A", "B"]):
        super().__init__()
        self.branch = nn.Sequential(
            OrderedDict(
                conv1=conv3x3(in_channels, channels, stride),
                norm1=nn.BatchNorm2d(channels),
                relu=nn.ReLU(),
                conv2=conv3x3(channels, channels),
                norm2=nn.BatchNorm2d(channels),
            )
        )
        self.shortcut: nn.Module
        if in_channels == channels and stride == 1:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(stride, channels - in_channels)
        else:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False),
                    norm=nn.BatchNorm2d(channels),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))


class PadShortcut(nn.Module):
    """Shortcut A: every `stride`-th pixel, and `extra` zero channels after the others. No parameters."""

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride = stride
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra={self.extra}"


def conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution with padding 1, without bias, because a norm follows."""
    return nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def blocks_per_stage(depth: int, fixed: int) -> int:
    """Return n of depth = 6n + `fixed`: three stages of n blocks of two layers, and `fixed` other layers."""
    blocks, rest = divmod(depth - fixed, 6)
    if rest or blocks < 1:
        nearest = 6 * max(1, round((depth - fixed) / 6)) + fixed
        raise ConfigError(f"model.depth={depth} is not 6n + {fixed}: the nearest that is possible is {nearest}")
    return blocks


def check_size(image_size: int) -> None:
    """Raise ConfigError for images too small for the last stage."""
    if image_size < SMALLEST:
        raise ConfigError(
            f"this residual network halves the image twice and needs at least {SMALLEST} pixels a side, "
            f"not {image_size}: use larger images or model=mlp"
        )


def init_weights(model: nn.Module) -> None:
    """Initialize convolutions with He normal (fan out) and linear biases with zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def _stage(in_channels: int, channels: int, blocks: int, stride: int, shortcut: Literal["A", "B"]) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)))
