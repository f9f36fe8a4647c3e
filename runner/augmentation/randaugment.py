"""RandAugment (Cubuk et al. 2020) from torchvision."""

from typing import Annotated

from pydantic import Field
from torchvision.transforms import v2

from runner.augmentation.torchvision_transform import Byte, Interpolation, Policy
from runner.core.errors import ConfigError
from runner.core.schema import Count, Positive, Whole


class RandAugment(Policy):
    """`num_ops` of 14 operations, drawn per image, all of the same magnitude."""

    def __init__(
        self,
        num_ops: Positive = 2,
        magnitude: Count = 9,
        num_magnitude_bins: Annotated[Whole, Field(ge=2)] = 31,
        interpolation: Interpolation = "nearest",
        fill: Byte = 0,
    ):
        if magnitude >= num_magnitude_bins:
            raise ConfigError(
                f"augmentation.randaugment.magnitude={magnitude}: must be below "
                f"augmentation.randaugment.num_magnitude_bins={num_magnitude_bins}"
            )
        options = {"num_ops": num_ops, "magnitude": magnitude, "num_magnitude_bins": num_magnitude_bins}
        super().__init__(v2.RandAugment, interpolation, fill, **options)
