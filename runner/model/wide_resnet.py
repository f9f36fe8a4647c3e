"""Wide residual networks: Zagoruyko & Komodakis 2016, with the pre-activation of He et al. 2016."""

from collections import OrderedDict

from pydantic import PositiveInt
from torch import Tensor, nn

from runner.model.resnet import blocks_per_stage, check_size, conv3x3, init_weights


class WideResNet(nn.Module):
    """Conv3x3-16; three stages of n = (depth - 4) / 6 blocks; norm, ReLU; global mean; linear head.

    Images [B, C, H, W] to logits [B, K]. The stages are 16, 32 and 64 times `width` wide; the second and the
    third begin with stride 2. Convolutions have no bias and He normal init (fan out). For the paper's dropout, use
    the regularization stack. For 3x32x32 and ten classes: WRN-16-4 has
    2,748,890 parameters, WRN-28-10 has 36,479,194.
    """

    def __init__(
        self,
        depth: PositiveInt = 16,
        width: PositiveInt = 4,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int,
    ):
        super().__init__()
        blocks = blocks_per_stage(depth, fixed=4)
        check_size(image_size)
        self.stem = conv3x3(in_channels, 16)
        self.stage1 = _stage(16, 16 * width, blocks, stride=1)
        self.stage2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.stage3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.stage3.append(_activation(64 * width))
        self.head = nn.Linear(64 * width, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.stage1(x)
        x = self.stage2(x)
        x = self.stage3(x)
        return self.head(x.mean(dim=(2, 3)))  # because average pooling is slow under vmap


class PreActivationBlock(nn.Module):
    """`shortcut(x) + branch(x)` with the branch norm, ReLU, conv3x3, norm, ReLU, conv3x3.

    Where the shape changes, the first norm and ReLU are in `before`, because the 1x1 convolution of the shortcut
    also reads their output (as in the authors' code).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        same = in_channels == channels and stride == 1
        first = _activation(in_channels)
        self.before = nn.Identity() if same else first
        self.branch = nn.Sequential(
            OrderedDict(
                first=first if same else nn.Identity(),
                conv1=conv3x3(in_channels, channels, stride),
                second=_activation(channels),
                conv2=conv3x3(channels, channels),
            )
        )
        self.shortcut: nn.Module = nn.Identity()
        if not same:
            self.shortcut = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.shortcut(x) + self.branch(x)


def _activation(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(channels), relu=nn.ReLU()))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(PreActivationBlock(channels, channels, 1) for _ in range(blocks - 1)))
