"""AugMix (Hendrycks et al. 2020) from torchvision: the images only, without the paper's consistency loss."""

from typing import Annotated

from pydantic import Field
from torchvision.transforms import v2

from runner.augmentation.torchvision_transform import Byte, Interpolation, Policy
from runner.core.errors import ConfigError
from runner.core.schema import Positive, Rate, Whole


class AugMix(Policy):
    """Mixture of the image and `mixture_width` chains of operations on it, with shares from Dirichlet(alpha)."""

    def __init__(
        self,
        severity: Annotated[Whole, Field(ge=1, le=10)] = 3,
        mixture_width: Positive = 3,
        chain_depth: Whole = -1,
        alpha: Rate = 1.0,
        all_ops: bool = True,
        interpolation: Interpolation = "bilinear",
        fill: Byte = 0,
    ):
        if chain_depth != -1 and chain_depth < 1:
            raise ConfigError(f"augmentation.augmix.chain_depth={chain_depth}: must be at least 1, or -1 (drawn)")
        options = {"severity": severity, "mixture_width": mixture_width, "chain_depth": chain_depth}
        super().__init__(v2.AugMix, interpolation, fill, **options, alpha=alpha, all_ops=all_ops)
