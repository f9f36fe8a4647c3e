"""AutoAugment (Cubuk et al. 2019) from torchvision: policies learned on three data sets."""

from typing import Literal

from torchvision.transforms import v2

from runner.augmentation.torchvision_transform import Byte, Interpolation, Policy


class AutoAugment(Policy):
    """One of the policy's 25 pairs of operations, drawn per image. Each operation has its own probability."""

    def __init__(
        self,
        policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet",
        interpolation: Interpolation = "nearest",
        fill: Byte = 0,
    ):
        super().__init__(v2.AutoAugment, interpolation, fill, policy=v2.AutoAugmentPolicy(policy))
