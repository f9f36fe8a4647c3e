"""Horizontal flips: values against torchvision, rates by their statistics."""

import math

import pytest
import torch
from torchvision.transforms import functional

from runner.augmentation.flip import Flip, flip
from runner.core.errors import ConfigError
from tests.shared.draws import seeded
from tests.shared.images import numbered


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_flip_values(kind):
    """Marked images equal torchvision's horizontal flip; the others are untouched."""
    images = torch.randint(0, 256, (6, 3, 5, 7), generator=seeded()).to(kind)
    chosen = torch.tensor([True, False, True, True, False, False])
    found = flip(images, chosen)
    for image, marked, result in zip(images, chosen, found, strict=True):
        assert torch.equal(result, functional.hflip(image) if marked else image)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_flip_rate(p):
    """A share p of the images is flipped, each by a draw of its own."""
    count = 5000
    found = Flip(p)(numbered(count), seeded(4))
    flipped = found[:, 0, 0, 0] == 8
    assert abs(flipped.double().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / count)
    if 0 < p < 1:  # runs of equal draws: independent ones change 2p(1-p) of the time
        changes = (flipped[1:] != flipped[:-1]).double().mean().item()
        assert abs(changes - 2 * p * (1 - p)) < 0.05


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_flip_range(p):
    """p is between 0 and 1."""
    with pytest.raises(ConfigError, match=f"augmentation.flip.p={p}: must be between 0 and 1"):
        Flip(p)
