"""Brightness, contrast, saturation and hue of each image by random factors (torchvision's ColorJitter)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from runner.augmentation.base import Transform
from runner.augmentation.color import luma, strengths, unit
from runner.core.context import Context
from runner.core.schema import NonNegative, Real
from runner.core.text import shown

Factors = NonNegative | tuple[NonNegative, NonNegative]
Shift = Annotated[Real, Field(ge=-0.5, le=0.5)]  # of the hue, in circles

# The adjustments work in place on floats [B, C, H, W] in [0, 1], with a factor [B, 1, 1, 1] for each image.


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Factor 0 is black, 1 the image."""
    return images.mul_(factor).clamp_(max=1)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Factor 0 is the image's mean grey, 1 the image."""
    mean = luma(images.mean((2, 3), keepdim=True))  # the mean of the grey is the grey of the mean
    return images.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Factor 0 is grey, 1 the image."""
    grey = luma(images)
    return images.mul_(factor).add_(grey.mul_(1 - factor)).clamp_(0, 1)


def hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of RGB images by `shift` circles, -0.5 to 0.5, as in HSV space, without its case distinctions.

    With hues h in sixths of a circle around cyan (-3 to 3: red -3, yellow -2, ..., cyan 0, ..., red 3),
    `|h| = 2 + (r + min - g - b) / (max - min)`, and h has the sign of `b - g`: inside a sixth two channels are at the
    ends and h moves with the third. Back again a channel is `min + (max - min) * clamp(2 - d, 0, 1)`, where d is the
    distance on the circle from the channel's own hue, and `3 - d = ||h + t| - 3|` for a turn t in -3..3.
    """
    red, green, blue = images.split(1, 1)
    span, low = torch.maximum(red, green), torch.minimum(red, green)
    low = torch.minimum(low, blue, out=low)
    span = torch.maximum(span, blue, out=span).sub_(low)
    hue = (red - green).sub_(blue).add_(low).div_(span + 1e-12).add_(2).copysign_(blue - green)  # any for greys
    own = 3 - 2 * torch.arange(3, device=images.device).view(3, 1, 1)  # of red, green, blue, with the other sign
    turn = (6 * shift + own + 3).remainder_(6).sub_(3)
    # The clamp to 1..2 spares a subtraction, which `low - span` makes good.
    rise = (hue + turn).abs_().sub_(3).abs_().clamp_(1, 2)
    return torch.addcmul(low.sub_(span), rise, span, out=images)


ADJUSTMENTS = {"brightness": brightness_, "contrast": contrast_, "saturation": saturation_, "hue": hue_}


class ColorJitter(Transform):
    """A number x: factors from max(0, 1 - x) to 1 + x, for the hue shifts from -x to x; or [MIN,MAX] of them.

    Always in this order. torchvision shuffles the four for each image: a host that drew the order would have to wait
    for a GPU's generator, and what differs is small (docs/augmentation.md).
    """

    def __init__(
        self,
        brightness: Factors = 0.4,
        contrast: Factors = 0.4,
        saturation: Factors = 0.4,
        hue: Annotated[Real, Field(ge=0, le=0.5)] | tuple[Shift, Shift] = 0.1,
    ):
        self.given = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.spans = {name: _span(name, value) for name, value in self.given.items()}

    def check(self, context: Context) -> str | None:
        wrong = [name for name in ("saturation", "hue") if self.spans[name] is not None]
        if context.channels == 3 or not wrong:
            return None
        key = "augmentation.color_jitter"
        has = ", ".join(f"{key}.{name}={shown(self.given[name])}" for name in wrong)
        out = " ".join(f"{key}.{name}=0" for name in wrong)
        return f"{has}: needs 3 channels, and the images have {context.channels}; set {out}"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draws = torch.rand(4, len(images), 1, 1, 1, generator=generator, device=images.device)
        images = unit(images)
        for draw, (name, span) in zip(draws, self.spans.items(), strict=True):
            if span is not None:
                images = ADJUSTMENTS[name](images, draw * (span[1] - span[0]) + span[0])
        return images


def _span(name: str, value: float | Sequence[float]) -> tuple[float, float] | None:
    """Smallest and largest factor; None where it changes nothing."""
    middle = 0 if name == "hue" else 1
    if isinstance(value, int | float):
        value = (-value if name == "hue" else max(0, 1 - value), middle + value)
    span = strengths(f"augmentation.color_jitter.{name}", value)
    return None if span == (middle, middle) else span
