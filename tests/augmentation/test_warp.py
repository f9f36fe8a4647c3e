"""Transforms that move images: values against torchvision, draws by what they do to ramps."""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch.nn.functional import pad
from torchvision.transforms.v2 import InterpolationMode, functional

from runner.augmentation.affine import Affine, affine
from runner.augmentation.rotate import Rotate, rotate
from runner.augmentation.scale import Scale, rescale
from runner.augmentation.translate import Translate, translate
from runner.augmentation.vertical_flip import VerticalFlip
from tests.shared.draws import seeded
from tests.shared.geometry import LIKELY, SHAPES, assert_close, fitted, levels, noise, ramps, seen

MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}


def surrounded(image, fill, function, *words):
    """What torchvision makes of an image that lies in a large field of the fill. (Its own `fill` is blended in twice
    at the image's edge: white on white gets a grey seam.)"""
    wide = function(pad(image, (image.shape[-1],) * 2 + (image.shape[-2],) * 2, value=fill), *words)
    return functional.center_crop(wide, list(image.shape[-2:]))


def is_uniform(values, low, high, margin=1e-3):
    assert values.min() >= low - margin and values.max() <= high + margin
    assert kstest(values.numpy(), "uniform", (low, high - low)).pvalue > LIKELY


# -- vertical_flip --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_vertical_flip(p, kind):
    """A share p of the images equals torchvision's vertical flip, the others are untouched."""
    count = 4000
    images = noise(1, (1, 5, 7)).to(kind).expand(count, 1, 5, 7)
    found = VerticalFlip(p)(images, seeded(4))
    flipped = (found == functional.vertical_flip(images)).flatten(1).all(1)
    assert (flipped | (found == images).flatten(1).all(1)).all()
    assert abs(flipped.double().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / count)


# -- rotate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fill", [0, 77])
def test_rotate_values(shape, mode, fill):
    """Each image turned by its own angle is torchvision's rotation by it, of bytes and of floats."""
    images = noise(6, shape)
    degrees = torch.tensor([0.0, 13.7, -31.3, 90.0 if shape[1] == shape[2] else 89.0, 178.1, -77.7])
    for given, level in ((images, fill), (images / 255, fill / 255)):
        found = rotate(given, degrees, mode, fill)
        for image, angle, result in zip(given, degrees.tolist(), found, strict=True):
            assert_close(result, surrounded(image, level, functional.rotate, angle, MODES[mode]))
            if fill == 0:
                assert_close(result, functional.rotate(image, angle, MODES[mode]))


@pytest.mark.parametrize(("degrees", "limits"), [(25, (-25, 25)), ([10, 80], (10, 80)), ([-30.0, -20.0], (-30, -20))])
def test_rotate_angles_are_uniform(degrees, limits):
    """Angles are uniform between the limits, counter-clockwise; the centre stays where it is."""
    place, step = seen(fitted(Rotate, degrees=degrees)(ramps(2000, 32), seeded(5)), 32)
    # Counter-clockwise in a picture whose y points down: a step to the right comes from right and down.
    angles = torch.atan2(step[:, 1, 0], step[:, 0, 0]).rad2deg()
    is_uniform(angles, *limits)
    assert place.abs().max() < 1e-3
    torch.testing.assert_close(torch.linalg.det(step), torch.ones(2000, dtype=torch.float64), atol=1e-3, rtol=0)


# -- translate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0, 200])
@pytest.mark.parametrize("side", [8, 28])
def test_translate_values(side, fill):
    """Each image moved by its own whole pixels is torchvision's affine translation, bit for bit."""
    images, most = noise(5, (3, side, side)), (3, 2)
    shifts = torch.tensor([[0, 0], [3, -2], [-3, 2], [1, 0], [0, -1]])
    for given, unit in ((images, 1), (images / 255, 255)):
        found = translate(given, shifts, most, fill)
        for image, shift, result in zip(given, shifts.tolist(), found, strict=True):
            wanted = functional.affine(image, 0.0, shift, 1.0, [0.0, 0.0], fill=[fill / unit])
            assert torch.equal(levels(result), levels(wanted))
        assert found.dtype == given.dtype


@pytest.mark.parametrize(
    ("kind", "options"), [(Translate, {}), (Affine, {"degrees": 0, "scale": [1, 1], "shear": 0, "fill": 255})]
)
def test_shifts_are_uniform(kind, options):
    """Every whole shift up to the fraction of the side is as likely as any other, in x and y on their own."""
    found = fitted(kind, translate=[0.1, 0.07], **options)(ramps(6000, 28), seeded(6))
    place, _ = seen(found, 28)
    right, down = (-place).round().long().unbind(1)
    torch.testing.assert_close(-place, torch.stack((right, down), 1).double(), atol=1e-3, rtol=0)
    assert (right.min(), right.max(), down.min(), down.max()) == (-3, 3, -2, 2)
    counts = torch.bincount((right + 3) * 5 + down + 2, minlength=35)
    assert len(counts) == 35 and chisquare(counts.numpy()).pvalue > LIKELY


def test_translate_of_nothing():
    """[0, 0] leaves images as they are."""
    images = noise(4, (1, 8, 8))
    assert torch.equal(fitted(Translate, translate=[0, 0])(images, seeded()), images)


# -- affine ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fill", [0, 77])
def test_affine_values(shape, mode, fill):
    """Each image, under its own angle, shift, scale and shear, is torchvision's affine image."""
    images = noise(5, shape)
    degrees = torch.tensor([0.0, 12.3, -45.6, 1.7, 170.0])
    shifts = torch.tensor([[0, 0], [2, -1], [-3, 1], [0, 2], [1, 1]])
    scale = torch.tensor([1.0, 1.3, 0.7, 0.9, 1.1])
    shear = torch.tensor([[0.0, 0.0], [11.0, 0.0], [-7.0, 5.0], [0.0, -13.0], [30.0, 20.0]])
    for given, level in ((images, fill), (images / 255, fill / 255)):
        found = affine(given, degrees, shifts, scale, shear, mode, fill)
        for i, image in enumerate(given):
            words = float(degrees[i]), shifts[i].tolist(), float(scale[i]), shear[i].tolist(), MODES[mode]
            assert_close(found[i], surrounded(image, level, functional.affine, *words))
            if fill == 0:
                assert_close(found[i], functional.affine(image, *words))


STILL = {"degrees": 0, "translate": [0, 0], "scale": [1, 1], "shear": 0}


@pytest.mark.parametrize(
    ("options", "value", "limits"),
    [
        ({"degrees": 20}, lambda m: torch.atan2(-m[:, 1, 0], m[:, 0, 0]).rad2deg(), (-20, 20)),
        ({"degrees": [30, 40]}, lambda m: torch.atan2(-m[:, 1, 0], m[:, 0, 0]).rad2deg(), (30, 40)),
        ({"scale": [0.5, 1.5]}, lambda m: 1 / m[:, 0, 0], (0.5, 1.5)),
        ({"shear": 25}, lambda m: m[:, 0, 1].atan().rad2deg(), (-25, 25)),
        ({"shear": [5, 15]}, lambda m: m[:, 0, 1].atan().rad2deg(), (5, 15)),
        ({"shear": [0, 0, -5, 20]}, lambda m: m[:, 1, 0].atan().rad2deg(), (-5, 20)),
    ],
)
def test_affine_draws_are_uniform(options, value, limits):
    """Each part of the map is uniform between its limits, while the others stand still."""
    place, step = seen(fitted(Affine, **STILL | options)(ramps(2000, 32), seeded(7)), 32)
    is_uniform(value(step), *limits)
    assert place.abs().max() < 1e-3
    still = {"degrees", "scale", "shear"} - set(options)
    if "degrees" in still and "shear" in still:
        assert step[:, [0, 1], [1, 0]].abs().max() < 1e-3
    if "scale" in still:
        torch.testing.assert_close(torch.linalg.det(step), torch.ones(2000, dtype=torch.float64), atol=1e-3, rtol=0)


def test_affine_draws_are_independent():
    """The parts of a map are drawn on their own: none tells another."""
    place, step = seen(fitted(Affine, shear=0, scale=[0.8, 1.2])(ramps(3000, 40), seeded(8)), 40)
    turn, zoom = torch.atan2(-step[:, 1, 0], step[:, 0, 0]), torch.linalg.det(step)
    drawn = torch.stack((turn, zoom, *torch.linalg.solve(step, -place).unbind(1)))
    assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 0.08


# -- scale ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28)])
@pytest.mark.parametrize("fill", [0, 77])
def test_scale_values(shape, fill):
    """Each image is torchvision's resize of it (with antialias), its centre cut out or padding put around it."""
    side = shape[-1]
    images, sizes = noise(5, shape), [side, side - 4, side // 2, side + 6, 2 * side]
    factors = torch.tensor([size / side for size in sizes])
    for given, unit in ((images, 1), (images / 255, 255)):
        found = rescale(given, factors, 0.5, fill)
        for image, size, result in zip(given, sizes, found, strict=True):
            edge = max(0, side - size) // 2
            resized = pad(functional.resize(image, [size, size], antialias=True), (edge,) * 4, value=fill / unit)
            assert_close(result, functional.center_crop(resized, [side, side]))


@pytest.mark.parametrize("limits", [(0.7, 1.4), (1.0, 2.0), (0.4, 0.9)])
def test_scale_factors_are_uniform(limits):
    """Factors are uniform between the limits, the same in x and y; the centre stays."""
    place, step = seen(fitted(Scale, scale=list(limits))(ramps(1000, 64), seeded(9)), 64, reach=12)
    factors = 1 / step[:, 0, 0]
    is_uniform(factors, *limits, margin=0.01)  # averages of several pixels show a ramp's slope not quite
    torch.testing.assert_close(step[:, 1, 1], step[:, 0, 0], atol=1e-3, rtol=0)
    assert place.abs().max() < 1e-3 and step[:, [0, 1], [1, 0]].abs().max() < 1e-3


def test_scale_pads_smaller_images():
    """An image made smaller lies in the middle of the fill, as wide as the factor says."""
    found = fitted(Scale, scale=[0.5, 0.5], fill=51)(torch.full((2, 1, 16, 16), 255, dtype=torch.uint8), seeded())
    wanted = pad(torch.ones(2, 1, 8, 8), (4,) * 4, value=0.2)
    torch.testing.assert_close(found, wanted)
