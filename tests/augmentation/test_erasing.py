"""Cutout and random erasing: values against torchvision, boxes by their statistics."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torchvision import transforms
from torchvision.transforms.v2 import functional

from runner.augmentation.cutout import Cutout, erase
from runner.augmentation.random_erasing import RandomErasing, random_bytes
from tests.shared.draws import seeded
from tests.shared.geometry import ITEMS, LIKELY, fitted, noise, same_boxes, split_of, torchvision_boxes

# -- cutout ---------------------------------------------------------------------------------------------------------


def test_erase_values():
    """Each box is torchvision's `erase`; the rest is untouched, bit for bit; boxes may reach over the edge."""
    boxes = torch.tensor([[0, 0, 3, 5], [4, 2, 4, 1], [7, 6, 1, 3], [2, 2, 0, 4]])
    values = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)
    for images, value in ((noise(4, (3, 8, 9)), values), (noise(4, (3, 8, 9)) / 255, values / 255)):
        found = erase(images, *boxes.T, value)
        for image, box, result in zip(images, boxes.tolist(), found, strict=True):
            assert torch.equal(result, functional.erase(image, *box, value))
    found = erase(noise(1, (1, 8, 8)), torch.tensor([-2]), torch.tensor([6]), 4, 4, 255)
    assert torch.equal(found, functional.erase(noise(1, (1, 8, 8)), 0, 6, 2, 2, torch.tensor(255)))


@pytest.mark.parametrize(("size", "side", "hidden"), [("auto", 8, 4), (4, 8, 4), (3, 8, 3), (6, 8, 6), ("auto", 9, 4)])
def test_cutout_squares_are_uniform(size, side, hidden):
    """The square is of the given side, its centre on any pixel alike, and clipped at the edges."""
    images = torch.zeros(6000, 1, side, side, dtype=torch.uint8)
    found = fitted(Cutout, side, size=size, fill=255)(images, seeded(11)) == 255
    # From where to where each centre hides; all differ, so the centre can be told.
    spans = {(max(0, c - hidden // 2), min(side, c - hidden // 2 + hidden)): c for c in range(side)}
    assert len(spans) == side
    centres = []
    for axis in (3, 2):
        line = found[:, 0].any(axis - 1)
        first, length = line.byte().argmax(1), line.sum(1)
        centres.append(torch.tensor([spans[a, a + n] for a, n in zip(first.tolist(), length.tolist())]))
        assert torch.equal(found[:, 0].sum((1, 2)) % length, torch.zeros_like(length))
    counts = torch.bincount(centres[0] * side + centres[1], minlength=side**2)
    assert len(counts) == side**2 and chisquare(counts.numpy()).pvalue > LIKELY


@pytest.mark.parametrize("kind", ["cutout", "random_erasing"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mean_of_the_data_hides(kind, channels):
    """`mean` is that of the training pixels, channel by channel, within half a level for bytes."""
    train = noise(50, (channels, 8, 8), seed=3) // torch.tensor([1, 2, 5][:channels], dtype=torch.uint8).view(-1, 1, 1)
    mean = train.double().mean((0, 2, 3)) / 255
    options = {"cutout": {"fill": "mean"}, "random_erasing": {"value": "mean", "p": 1.0}}[kind]
    transform = fitted(ITEMS[kind], 8, split_of(train), **options)
    images = torch.zeros(20, channels, 8, 8)
    found = transform(images, seeded())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.amax((2, 3)), mean.float().expand(20, channels), atol=1e-6, rtol=0)
    assert torch.equal(
        transform(images.to(torch.uint8), seeded()).amax((0, 2, 3)), (mean * 255).round().to(torch.uint8)
    )


# -- random_erasing -------------------------------------------------------------------------------------------------


def erased(found):
    """Top, left, height and width of the white boxes of black images; of images with none, height and width 0."""
    rows, columns = (found[:, 0] > 0).any(2), (found[:, 0] > 0).any(1)
    return torch.stack((rows.byte().argmax(1), columns.byte().argmax(1), rows.sum(1), columns.sum(1)))


@pytest.mark.parametrize(
    ("scale", "ratio"), [([0.02, 0.33], [0.3, 3.3]), ([0.3, 0.4], [0.5, 0.6]), ([0.6, 0.9], [1.0, 3.0])]
)
def test_random_erasing_boxes(scale, ratio):
    """Boxes are distributed as torchvision's: area uniform, ratio log-uniform, places uniform (2,000 draws)."""
    transform = fitted(RandomErasing, p=1.0, scale=scale, ratio=ratio, value=255)
    found = erased(transform(torch.zeros(2000, 3, 32, 32, dtype=torch.uint8), seeded(12)))
    drawn = torchvision_boxes(transforms.RandomErasing, 2000, 32, scale=scale, ratio=ratio, value=[0.0])
    none = (drawn[2:] == 32).all(0)  # torchvision gives the whole image back where no draw fits
    same_boxes(found[:, found[2] > 0], drawn[:, ~none])
    assert abs((found[2] == 0).sum() - none.sum()) <= 5 * math.sqrt(2000 * 0.25)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_random_erasing_rate(p):
    """A share p of the images has a box."""
    found = fitted(RandomErasing, p=p, value=200)(torch.zeros(4000, 1, 16, 16, dtype=torch.uint8), seeded(13))
    assert set(found.unique().tolist()) <= {0, 200}
    share = (found > 0).flatten(1).any(1).double().mean().item()
    assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / 4000)


def test_random_erasing_random_pixels():
    """`random` gives each pixel of each channel of each image a byte of its own, all alike; outside is untouched."""
    images = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    drawn = fitted(RandomErasing, p=1.0, scale=[0.3, 0.3], ratio=[1, 1])(images, seeded(14))
    plain = fitted(RandomErasing, p=1.0, scale=[0.3, 0.3], ratio=[1, 1], value=255)(images, seeded(14))
    assert not drawn[plain == 0].any()
    pixels = drawn[plain == 255]
    assert chisquare(torch.bincount(pixels, minlength=256).numpy()).pvalue > LIKELY
    assert abs(torch.corrcoef(pixels.view(2, -1).double())[0, 1]) < 0.02
    boxed = pixels.view(400, 3, -1)
    assert len(boxed.flatten(0, 1).unique(dim=0)) == 1200


@pytest.mark.parametrize("count", [1, 7, 8, 4096])
def test_random_bytes(count):
    """Every one of the 256 values comes, in every place of a word of eight bytes, the top one too."""
    assert random_bytes(torch.Size((count,)), seeded(), torch.device("cpu")).shape == (count,)
    many = random_bytes(torch.Size((40000, 8)), seeded(), torch.device("cpu"))
    for column in many.T:
        assert chisquare(torch.bincount(column, minlength=256).numpy()).pvalue > LIKELY
