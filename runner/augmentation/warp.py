"""Resampling of a batch with a map per image: affine (`warp`), or along the axes (`resample`)."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, grid_sample

Interpolation = Literal["nearest", "bilinear"]


def warp(images: Tensor, inverse: Tensor, interpolation: Interpolation = "bilinear", fill: float = 0) -> Tensor:
    """Transform `images [B, C, H, W]` by affine maps about their centers.

    `inverse [B, 2, 3]` maps a pixel of the result to its source position, both as (x, y) in pixels from the center.
    Outside the image is `fill` (0..255). Bytes stay bytes for `nearest`; else the result is float32 in [0, 1].
    """
    batch, _, height, width = images.shape
    grid = inverse.new_empty(batch, height, width, 2)
    x, y = (torch.arange(side, device=images.device) - (side - 1) / 2 for side in (width, height))
    for axis, side in enumerate((width, height)):  # in units of half the side, as grid_sample expects
        across, down, shift = (inverse[:, axis] * (2 / side))[:, :, None].unbind(1)
        torch.add((down * y + shift)[:, :, None], (across * x)[:, None], out=grid[..., axis])
    # grid_sample pads with zeros: subtracting the fill first and adding it afterwards pads with the fill.
    is_bytes = images.dtype == torch.uint8
    fill = fill if is_bytes else fill / 255
    pixels = images.float() - fill if fill else images.float()
    warped = grid_sample(pixels, grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    warped = warped.add_(fill) if fill else warped
    if is_bytes and interpolation == "nearest":
        return warped.round_().to(torch.uint8)
    return (warped.mul_(1 / 255) if is_bytes else warped).clamp_(0, 1)


def taps(start: Tensor, length: Tensor, size: int, max_shrink: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the resampling weights that resize a segment of a line of pixels to `size` pixels.

    The segment has `length [B]` pixels from `start [B]`. Returns the indices and weights of the K source pixels of
    each new pixel, both [B, size, K], and the new pixels' centers [B, size] on the line. The weights are not yet
    normalized. As in torchvision with antialiasing: bilinear for enlarging; for shrinking, by a factor of at most
    `max_shrink`, the triangle kernel is wider by that factor.
    """
    device = start.device
    step = (length / size)[:, None]
    centers = step * (torch.arange(size, device=device) + 0.5) + start[:, None]
    reach = step.clamp(min=1)
    count = math.ceil(2 * max(1, max_shrink))
    places = (centers - reach + 0.5).floor_()[:, :, None] + torch.arange(count, device=device)
    weights = (places + 0.5).sub_(centers[:, :, None]).abs_().div_(-reach[:, :, None]).add_(1).clamp_(min=0)
    return places.long(), weights, centers


def resample(images: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], fill: float = 0) -> Tensor:
    """Resample `images [B, C, H, W]` to float32 [B, C, R, S] in [0, 1], with weights per image.

    `rows` and `columns`: source indices and weights, [B, R, K] and [B, S, K]. Indices outside the image are ignored;
    the other weights are normalized to sum 1. A row or column without any weight becomes `fill` (0..255).
    """
    is_bytes = images.dtype == torch.uint8
    fill = fill if is_bytes else fill / 255
    pixels = images.float() - fill if fill else images.float()
    for places, weights in (rows, columns):
        pixels = _weighted(pixels, places, weights).transpose(2, 3).contiguous()
    pixels = pixels.add_(fill) if fill else pixels
    return (pixels.mul_(1 / 255) if is_bytes else pixels).clamp_(0, 1)


def _weighted(images: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Return weighted averages [B, C, R, W] of the rows of `images [B, C, H, W]`."""
    batch, channels, height, width = images.shape
    weights = weights * ((places >= 0) & (places < height))
    weights /= weights.sum(2, keepdim=True).clamp_(min=1e-6)
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1, 1) * height
    bags = (places.clamp(0, height - 1)[:, None] + planes).flatten(0, 2)
    shares = weights[:, None].expand(-1, channels, -1, -1).reshape(bags.shape)
    # embedding_bag looks rows up and sums them without an intermediate copy.
    averages = embedding_bag(bags, images.reshape(-1, width), mode="sum", per_sample_weights=shares)
    return averages.view(batch, channels, -1, width)
