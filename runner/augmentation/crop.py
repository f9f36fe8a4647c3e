"""Padding, then a random crop (the augmentation of He et al. 2015 for 32x32 images)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from runner.augmentation.base import Transform
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.data.splits import Split


def crop(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Return a square of `size` pixels from each of `images [B, C, H, W]`, with its corner at `top [B]`, `left [B]`."""
    batch, channels, height, width = images.shape
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels) * height
    rows = (planes + top[:, None])[:, :, None] + torch.arange(size, device=images.device)
    # Each row of a square is a window of the flattened images; it is copied at once, by the index of its first pixel.
    first = rows * width + left[:, None, None]
    windows = images.reshape(-1).unfold(0, size, 1)
    return windows.index_select(0, first.flatten()).view(batch, channels, size, size)


def reflect(images: Tensor, padding: int) -> Tensor:
    """Pad `images [B, C, H, W]`, of any type, by reflection with `padding` pixels on each side."""
    for axis in (-2, -1):
        last = images.shape[axis] - 1
        places = last - (last - torch.arange(-padding, last + 1 + padding, device=images.device).abs()).abs()
        images = images.index_select(axis, places)
    return images


class Crop(Transform):
    """Padding on each side, then a crop at a random position.

    padding: pixels on each side; `auto`: an eighth of the side, or none where the stored photos are larger than the
    network's input (there the crop moves over the photo).
    padding_mode: `constant` pads with `fill`; `reflect` mirrors the image at its edges.
    """

    def __init__(
        self,
        padding: int | Literal["auto"] = "auto",
        fill: float = 0,
        padding_mode: Literal["constant", "reflect"] = "constant",
    ):
        if padding != "auto" and padding < 0:
            raise ConfigError(f"augmentation.crop.padding={padding}: must be auto, or pixels, not below 0")
        if not 0 <= fill <= 255:
            raise ConfigError(f"augmentation.crop.fill={fill}: must be between 0 and 255")
        if fill and padding_mode == "reflect":
            raise ConfigError(f"augmentation.crop.fill={fill}: padding_mode=reflect fills nothing; use fill=0")
        self.padding, self.fill, self.mode = padding, fill, padding_mode
        self.size = 0

    def check(self, context: Context) -> str | None:
        if self.padding != "auto" and self.padding > context.stored_size:
            return (
                f"augmentation.crop.padding={self.padding}: more than the image's {context.stored_size} pixels; "
                "some crops would see padding alone"
            )
        if self.mode == "reflect" and self.padding == context.stored_size:
            return (
                f"augmentation.crop.padding={self.padding}: an image of {context.stored_size} pixels has not so many "
                f"behind its edge to reflect; use {context.stored_size - 1} or less"
            )
        return None

    def fit(self, train: Split, size: int) -> None:
        self.size = size

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        side, size = images.shape[-1], self.size
        padding = (side // 8 if side == size else 0) if self.padding == "auto" else self.padding
        if self.mode == "reflect":
            images = reflect(images, padding)
        else:
            fill = self.fill if images.dtype == torch.uint8 else self.fill / 255
            images = pad(images, (padding,) * 4, value=fill)
        room = images.shape[-1] - size + 1
        corner = torch.randint(room, (2, len(images)), generator=generator, device=images.device)
        return crop(images, corner[0], corner[1], size)
