"""The network of "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (Jordan 2024, arXiv 2404.00498): airbench94."""

from collections import OrderedDict
from collections.abc import Iterator

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import unfold

from runner.core.errors import ConfigError
from runner.core.schema import Below1, Rate
from runner.model.fitted import Fitted

PATCH = 2  # side of a patch in pixels


class Airbench(Fitted):
    """Whitening conv2x2, GELU; three blocks of (conv3x3, pool, norm, GELU, conv3x3, norm, GELU); global max pool;
    linear head with logits scaled by `logit_scale`.

    Images [B, C, H, W] to logits [B, K]. The first layer's filters whiten the training images' patches, with both
    signs. They do not train, but their bias does. In each 3x3 convolution, as many filters as there are inputs start as
    the identity, an implicit shortcut; the others have torch's default init. Norms have a bias and no weight. Pools
    leave single pixels unchanged, so that small images fit. 1,972,792 parameters for 3x32x32 and ten classes.

    widths: channels of the three blocks.
    look_at: number of training images for the whitening.
    whiten_eps: added to the variances of the patches' components, so that weak components are amplified less.
    norm_decay: weight of the old running statistics of a norm in each step.
    """

    def __init__(
        self,
        widths: list[PositiveInt],
        look_at: PositiveInt = 5000,
        whiten_eps: Rate = 5e-4,
        norm_decay: Below1 = 0.6,
        logit_scale: Rate = 1 / 9,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int,
    ):
        super().__init__()
        if len(widths) != 3:
            raise ConfigError(f"model.widths={list(widths)}: this network has three blocks; give three widths")
        if image_size < PATCH:
            raise ConfigError(f"this network needs at least {PATCH} pixels a side, not {image_size}: use larger images")
        self.look_at, self.whiten_eps, self.logit_scale = look_at, whiten_eps, logit_scale
        filters = 2 * in_channels * PATCH**2
        self.whiten = nn.Conv2d(in_channels, filters, PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)
        self.gelu = nn.GELU()
        side, width = image_size - PATCH + 1, filters
        for number, block_width in enumerate(widths, start=1):
            setattr(self, f"block{number}", _block(width, block_width, norm_decay, halve=side > 1))
            side, width = max(1, side // 2), block_width
        self.head = nn.Linear(width, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gelu(self.whiten(x))
        x = self.block1(x)
        x = self.block2(x)
        x = self.block3(x)
        return self.head(x.amax(dim=(2, 3))) * self.logit_scale

    def fit(self, images: Iterator[Tensor]) -> None:
        """Set the filters of the first layer."""
        filters = whitening(images, PATCH, self.whiten_eps)
        with torch.no_grad():
            self.whiten.weight.copy_(torch.cat((filters, -filters)))


def whitening(images: Iterator[Tensor], size: int, eps: float) -> Tensor:
    """Return whitening filters `[F, C, size, size]`, F = C size^2, for the images' patches.

    They are the eigenvectors of the patches' second moments divided by sqrt(eigenvalue + eps), the largest eigenvalue
    first. With `eps` 0, the second moments of the filters' outputs are the identity. Computed in float64 on the CPU,
    with each filter's largest weight positive, so that the result is the same on all devices.
    """
    moments, count, channels = 0.0, 0, 0
    for batch in images:
        channels = batch.shape[1]
        patches = unfold(batch.cpu().double(), size).transpose(1, 2).flatten(0, 1)
        moments, count = moments + patches.T @ patches, count + len(patches)
    values, vectors = torch.linalg.eigh(moments / count)
    filters = (vectors / (values.clamp(min=0) + eps).sqrt()).T.flip(0)
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    return (filters * largest.sign()).view(-1, channels, size, size)


def _block(inputs: int, width: int, norm_decay: float, halve: bool) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=_conv(inputs, width),
            pool=nn.MaxPool2d(2) if halve else nn.Identity(),
            norm1=_norm(width, norm_decay),
            gelu1=nn.GELU(),
            conv2=_conv(width, width),
            norm2=_norm(width, norm_decay),
            gelu2=nn.GELU(),
        )
    )


def _conv(inputs: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, width, kernel_size=3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:inputs])
    return conv


def _norm(width: int, decay: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=1 - decay)  # torch's momentum is the weight of the new statistics
    norm.weight.requires_grad_(False)
    return norm
