"""Fashion-MNIST as uint8 tensors in memory, augmented a batch at a time."""

from collections.abc import Iterator

import torch
from common import BATCH, MEAN, STD, TEST_BATCH, cut
from torch import Tensor
from torch.nn.functional import pad
from torchvision.datasets import FashionMNIST


def load(root: str, limit: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images uint8 [N, 1, 28, 28] and labels of train, val and test."""
    train, test = FashionMNIST(root), FashionMNIST(root, train=False)
    rows, held_out = cut(limit)
    images = train.data[:, None]
    return {
        "train": (images[rows], train.targets[rows]),
        "val": (images[held_out], train.targets[held_out]),
        "test": (test.data[:, None], test.targets),
    }


class Batches:
    """What a loop iterates over; the training images flipped, cropped and shuffled."""

    def __init__(self, images: Tensor, labels: Tensor, training: bool, channels_last: bool = False):
        self.images, self.labels, self.training = images, labels, training
        self.batch = BATCH if training else TEST_BATCH
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels)) if self.training else torch.arange(len(self.labels))
        for rows in order.split(self.batch):
            images = self.images[rows]
            if self.training:
                images = augment(images)
            images = images.float().div_(255).sub_(MEAN).div_(STD)
            yield images.contiguous(memory_format=self.layout), self.labels[rows]


def augment(images: Tensor) -> Tensor:
    """Flip, and pad by 3 and crop, each image with its own draw; uint8 in, uint8 out."""
    count, channels, size, _ = images.shape
    images = torch.where((torch.rand(count) < 0.5).view(-1, 1, 1, 1), images.flip(-1), images)
    images = pad(images, (3, 3, 3, 3))
    top, left = torch.randint(7, (2, count))
    side = torch.arange(size)
    rows = (top[:, None] + side)[:, None, :, None].expand(-1, channels, -1, size + 6)
    columns = (left[:, None] + side)[:, None, None, :].expand(-1, channels, size, -1)
    return images.gather(2, rows).gather(3, columns)
