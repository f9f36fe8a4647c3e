"""Normalize: the last step from images to network inputs. Samples of images."""

from collections.abc import Iterator

import torch
from torch import Tensor

from runner.data.splits import Splits

CHUNK = 64  # images


class Normalize:
    """Callable: uint8 or [0, 1] images of any size -> float32 [B, C, size, size], mean 0 and std 1 a channel.

    Larger images are cut to their center. Images of one channel are repeated to the C channels of mean and standard
    deviation, with the same result as for C equal channels.
    """

    def __init__(self, splits: Splits, device: torch.device, memory_format: torch.memory_format):
        self.mean = splits.mean.to(device).view(-1, 1, 1)
        self.std = splits.std.to(device).view(-1, 1, 1)
        self.size, self.memory_format = splits.size, memory_format
        self.bytes_mean, self.bytes_scale = self.mean * 255, 1 / (self.std * 255)

    def __call__(self, images: Tensor) -> Tensor:
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        if top or left:
            images = images[..., top : top + self.size, left : left + self.size]
        if images.dtype == torch.uint8:
            images = (images - self.bytes_mean).mul_(self.bytes_scale)
        else:
            images = (images - self.mean) / self.std
        return images.contiguous(memory_format=self.memory_format)

    def undo(self, images: Tensor) -> Tensor:
        """Return network inputs as images in [0, 1], for pictures."""
        return (images * self.std + self.mean).clamp(0, 1)


def sample(splits: Splits, count: int) -> Iterator[Tensor]:
    """Yield `count` training images (all if there are fewer) in normalized batches, evenly spaced over the split."""
    # evenly spaced, because a split may be sorted by class
    images, device = len(splits.train), splits.train.labels.device
    count = min(count, images)
    rows = torch.arange(count, device=device) * images // count
    normalize = Normalize(splits, device, torch.contiguous_format)
    return (normalize(batch) for batch, _ in splits.train.batches(rows.split(CHUNK)))


def sample_by_class(labels: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Return the rows of `count` images (all if there are fewer), drawn at random in proportion to the classes."""
    order = torch.randperm(len(labels), generator=draws)
    order = order[labels.cpu()[order].argsort(stable=True)]  # class by class, each in a random order
    count = min(count, len(order))
    return order[torch.arange(count) * len(order) // count].to(labels.device)
