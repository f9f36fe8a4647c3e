"""Random brightness, contrast, saturation and hue of each image (torchvision's ColorJitter)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import luma, to_float, to_range
from runner.core.context import Context
from runner.core.schema import NonNegative, Real
from runner.core.text import shown

Factors = NonNegative | tuple[NonNegative, NonNegative]
Shift = Annotated[Real, Field(ge=-0.5, le=0.5)]  # of the hue, in turns of the color circle

# The adjustments work in place on floats [B, C, H, W] in [0, 1], with a factor [B, 1, 1, 1] for each image.


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the brightness. Factor 0 gives black, 1 the image."""
    return images.mul_(factor).clamp_(max=1)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the contrast. Factor 0 gives the image's mean gray, 1 the image."""
    mean = luma(images.mean((2, 3), keepdim=True))  # equals the mean of the gray image, because luma is linear
    return images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation. Factor 0 gives gray, 1 the image."""
    gray = luma(images)
    return images.mul_(factor).add_(gray.mul_(1 - factor)).clamp_(0, 1)


def hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of RGB images by `shift` turns, -0.5 to 0.5, as in HSV space but without case distinctions.

    Measure hue h in sixths of a turn from cyan: red -3, yellow -2, ..., cyan 0, ..., red 3. Then
    `|h| = 2 + (r + min - g - b) / (max - min)`, and h has the sign of `b - g`: within a sixth, two channels are the
    min and the max, and h is linear in the third. Back in RGB, a channel is `min + (max - min) * clamp(2 - d, 0, 1)`.
    Here d is the circular distance from the channel's own hue, and `3 - d = ||h + t| - 3|` for a turn t in -3..3.
    """
    red, green, blue = images.split(1, 1)
    chroma, low = torch.maximum(red, green), torch.minimum(red, green)
    low = torch.minimum(low, blue, out=low)
    chroma = torch.maximum(chroma, blue, out=chroma).sub_(low)
    hue = (red - green).sub_(blue).add_(low).div_(chroma + 1e-12).add_(2).copysign_(blue - green)  # arbitrary for grays
    own = 3 - 2 * torch.arange(3, device=images.device).view(3, 1, 1)  # hues of red, green, blue, negated
    turn = (6 * shift + own + 3).remainder_(6).sub_(3)
    # The clamp to 1..2 instead of 0..1 saves a subtraction; `low - chroma` compensates.
    rise = (hue + turn).abs_().sub_(3).abs_().clamp_(1, 2)
    return torch.addcmul(low.sub_(chroma), rise, chroma, out=images)


ADJUSTMENTS = {"brightness": brightness_, "contrast": contrast_, "saturation": saturation_, "hue": hue_}


class ColorJitter(Transform):
    """Random brightness, contrast, saturation and hue of each image, in this order.

    A number x draws the factor from [max(0, 1 - x), 1 + x], and the hue shift from [-x, x]; or give [MIN,MAX].
    torchvision shuffles the order per image. Here it is fixed, because drawing it would make the host wait for the
    GPU's generator; the effect is small (docs/augmentation.md).
    """

    def __init__(
        self,
        brightness: Factors = 0.4,
        contrast: Factors = 0.4,
        saturation: Factors = 0.4,
        hue: Annotated[Real, Field(ge=0, le=0.5)] | tuple[Shift, Shift] = 0.1,
    ):
        self.values = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.ranges = {name: _range(name, value) for name, value in self.values.items()}

    def check(self, context: Context) -> str | None:
        adjusted = [name for name in ("saturation", "hue") if self.ranges[name] is not None]
        if context.channels == 3 or not adjusted:
            return None
        key = "augmentation.color_jitter"
        settings = ", ".join(f"{key}.{name}={shown(self.values[name])}" for name in adjusted)
        remedy = " ".join(f"{key}.{name}=0" for name in adjusted)
        return f"{settings}: needs 3 channels, and the images have {context.channels}; set {remedy}"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draws = torch.rand(4, len(images), 1, 1, 1, generator=generator, device=images.device)
        images = to_float(images)
        for draw, (name, limits) in zip(draws, self.ranges.items(), strict=True):
            if limits is not None:
                images = ADJUSTMENTS[name](images, draw * (limits[1] - limits[0]) + limits[0])
        return images


def _range(name: str, value: float | Sequence[float]) -> tuple[float, float] | None:
    """Return the (min, max) of the factor, or None where it changes nothing."""
    neutral = 0 if name == "hue" else 1
    if isinstance(value, int | float):
        value = (-value if name == "hue" else max(0, 1 - value), neutral + value)
    limits = to_range(f"augmentation.color_jitter.{name}", value)
    return None if limits == (neutral, neutral) else limits
