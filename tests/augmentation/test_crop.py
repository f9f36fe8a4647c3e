"""Crops with padding: values against torchvision, corners by their statistics."""

import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import functional

from runner.augmentation.crop import Crop, crop
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.images import numbered


def fitted(size=8, **options):
    transform = Crop(**options)
    transform.fit(None, size)
    return transform


def corners(found, side, padding=0):
    """Where crops of `numbered` images were cut: rows and columns on the padded image."""
    middle = found.shape[-1] // 2
    place = found[:, 0, middle, middle].long() - 1
    return place // side + padding - middle, place % side + padding - middle


# -- crop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_crop_values(kind):
    """Each image is cut at its own corner, as torchvision's crop of it."""
    images = torch.randint(0, 256, (5, 3, 12, 12), generator=seeded()).to(kind)
    top, left = torch.tensor([0, 4, 2, 1, 3]), torch.tensor([4, 0, 2, 3, 1])
    found = crop(images, top, left, 8)
    for i, (row, column) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        assert torch.equal(found[i], functional.crop(images[i], row, column, 8, 8))


@pytest.mark.parametrize(("fill", "kind"), [(0, torch.uint8), (51, torch.uint8), (51, torch.float32)])
def test_crop_pads_and_cuts(fill, kind):
    """The transform equals torchvision's pad and crop at the corner that each image got; `fill` is in 0..255."""
    images = numbered(200)
    images = images if kind == torch.uint8 else images / 255
    value = fill if kind == torch.uint8 else fill / 255
    found = fitted(padding=2, fill=fill)(images, seeded(5))
    top, left = corners((found if kind == torch.uint8 else (found * 255).round()), 8, padding=2)
    assert found.shape == images.shape and len({*zip(top.tolist(), left.tolist())}) == 25
    for i in range(200):
        padded = functional.pad(images[i], 2, fill=value)
        assert torch.equal(found[i], functional.crop(padded, int(top[i]), int(left[i]), 8, 8))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_crop_reflects(kind):
    """padding_mode=reflect equals torchvision's reflecting pad and crop at the corner that each image got."""
    images = numbered(200) if kind == torch.uint8 else numbered(200) / 255
    found = fitted(padding=2, padding_mode="reflect")(images, seeded(5))
    assert found.dtype == kind and not (found == 0).any()
    padded = functional.pad(images[:1].float(), 2, padding_mode="reflect").to(kind)
    cuts = [functional.crop(padded, row, column, 8, 8)[0] for row in range(5) for column in range(5)]
    places = [next(place for place, cut in enumerate(cuts) if torch.equal(cut, one)) for one in found]
    assert set(places) == set(range(25))


def test_crop_reflects_no_more_than_there_is():
    """As many pixels as the image has cannot be reflected, and a fill would fill nothing: one line each."""
    with pytest.raises(ConfigError, match="augmentation.crop.fill=9: padding_mode=reflect fills nothing; use fill=0"):
        Crop(fill=9, padding_mode="reflect")
    config = check(composed("augmentation=[crop]", "augmentation.crop.padding=8"))
    Resources().preflight(config)
    config["augmentation"]["crop"]["padding_mode"] = "reflect"
    with pytest.raises(Refused, match="augmentation.crop.padding=8: an image of 8 pixels .* use 7 or less"):
        Resources().preflight(config)


def test_crop_corners_are_uniform():
    """All 25 corners of a crop padded by 2 are equally likely (chi-square, 5,000 images)."""
    top, left = corners(fitted(padding=2)(numbered(5000), seeded(6)), 8, padding=2)
    counts = torch.bincount(top * 5 + left, minlength=25)
    assert len(counts) == 25
    assert chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize(("side", "padding"), [(8, 1), (16, 2), (15, 1), (7, 0)])
def test_crop_auto_is_an_eighth(side, padding):
    """`auto` pads by an eighth of the side where images are as large as the network's input."""
    found = fitted(size=side)(numbered(600, side), seeded(7))
    top, left = corners(found, side, padding)
    assert found.shape[-1] == side
    for corner in (top, left):
        assert (int(corner.min()), int(corner.max())) == (0, 2 * padding)


def test_crop_moves_over_larger_photos():
    """Photos kept at 12 pixels for a network of 8 are cut anywhere in them, with no padding."""
    found = fitted(size=8)(numbered(800, side=12), seeded(8))
    assert found.shape == (800, 1, 8, 8) and int(found.min()) > 0
    top, left = corners(found, 12)
    counts = torch.bincount(top * 5 + left, minlength=25)
    assert len(counts) == 25 and chisquare(counts.numpy()).pvalue > 0.001


def test_crop_padding_of_larger_photos():
    """A padding that is asked for is added to larger photos too."""
    found = fitted(size=8, padding=3)(numbered(2000, side=10), seeded(9))
    assert found.shape[-1] == 8 and (found == 0).any()
    assert {int(c.max()) for c in corners(found, 10, 3)} == {10 + 6 - 8}


def test_crop_without_padding():
    """padding=0 on images of the network's size changes nothing."""
    assert torch.equal(fitted(padding=0)(numbered(4), seeded()), numbered(4))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"padding": -1}, "augmentation.crop.padding=-1: must be auto, or pixels, not below 0"),
        ({"fill": 256}, "augmentation.crop.fill=256: must be between 0 and 255"),
    ],
)
def test_crop_range(options, line):
    """Padding and fill have ranges."""
    with pytest.raises(ConfigError, match=line):
        Crop(**options)


def test_crop_padding_larger_than_the_image_is_refused():
    """More padding than image is refused, with the reason; as much as the image is not."""
    words = ("data.limit=200", "augmentation=[crop]")
    with pytest.raises(Refused, match="augmentation.crop.padding=9: more than the image's 8 pixels"):
        Resources().preflight(check(composed(*words, "augmentation.crop.padding=9")))
    Resources().preflight(check(composed(*words, "augmentation.crop.padding=8")))
