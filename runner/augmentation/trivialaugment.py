"""TrivialAugment (Müller & Hutter 2021) with its wide search space, from torchvision."""

from typing import Annotated

from pydantic import Field
from torchvision.transforms import v2

from runner.augmentation.torchvision_transform import Byte, Interpolation, Policy
from runner.core.schema import Whole


class TrivialAugment(Policy):
    """One of 14 operations and its magnitude, both drawn per image. Translations are up to 32 pixels for any image
    size."""

    def __init__(
        self,
        num_magnitude_bins: Annotated[Whole, Field(ge=2)] = 31,
        interpolation: Interpolation = "nearest",
        fill: Byte = 0,
    ):
        super().__init__(v2.TrivialAugmentWide, interpolation, fill, num_magnitude_bins=num_magnitude_bins)
