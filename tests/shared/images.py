"""Images of known pixels, and what is made of them."""

import numpy as np
import torch

from runner.build.check import check
from runner.data.splits import ResidentSplit
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded


def numbered(count, side=8, channels=1):
    """Images whose pixels are 1, 2, ... by place: a pixel tells where it was taken from."""
    image = torch.arange(1, side * side + 1, dtype=torch.uint8).view(1, 1, side, side)
    return image.expand(count, channels, side, side).clone()


def colours(count=24, side=9, channels=3):
    """Bytes of every kind: plain noise, darkened, paled and grey images, so that channels tie and clamps bite."""
    images = torch.randint(0, 256, (count, channels, side, side), generator=seeded()).to(torch.uint8)
    images[1::4] //= 16
    images[2::4] = images[2::4] // 8 + 200
    images[3::4] = images[3::4, :1] // 64 * 85
    return images


def as_bytes(images):
    return (images * 255).round()


def preflight(name, *overrides, data=("data=digits", "data.limit=200")):
    words = [f"augmentation.{name}.{override}" for override in overrides]
    return Resources().preflight(check(composed(*data, f"augmentation=[{name}]", *words)))


def coloured(tmp_path, pixels=None):
    """Overrides that choose a small data set of colour images of 8 pixels."""
    if pixels is None:
        pixels = colours(12, 8).permute(0, 2, 3, 1).numpy()
    labels = np.arange(len(pixels)) % 2
    np.savez(tmp_path / "x.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return ("data=arrays", f"data.root={tmp_path / 'x.npz'}", "data.val_fraction=0.2", "batch_size=4")


def split_of(images):
    return ResidentSplit(images, torch.zeros(len(images), dtype=torch.long))
