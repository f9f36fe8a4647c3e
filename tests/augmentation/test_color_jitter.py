"""Colour jitter: values against torchvision, factors by their statistics."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torchvision.transforms.v2 import functional

from runner.augmentation.color_jitter import ADJUSTMENTS, ColorJitter
from tests.shared.draws import seeded
from tests.shared.images import as_bytes, colours

ORDER = ("brightness", "contrast", "saturation", "hue")


# -- colour jitter: values -------------------------------------------------------------------------------------------


def torchvision_adjust(name, images, factors):
    """torchvision's function, image by image."""
    adjust = getattr(functional, f"adjust_{name}")
    return torch.stack([adjust(image, factor) for image, factor in zip(images, factors.flatten().tolist())])


def factors_of(name, count):
    """From gentle to wild."""
    values = [-0.03, 0.0, 0.1, -0.25, 1 / 6, 1 / 3, 0.5, -0.5] if name == "hue" else [0.6, 0.9, 1.0, 1.4, 0.0, 0.3, 4.0]
    return torch.tensor(list(itertools.islice(itertools.cycle(values), count))).view(-1, 1, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ORDER)
def test_jitter_adjustments_are_torchvisions(name, channels):
    """Each adjustment, with a factor for each image, gives torchvision's values; those that it gives for bytes, where
    it rounds down on the way, are within 1 at the usual factors."""
    if channels == 1 and name in ("saturation", "hue"):
        return  # refused
    images = colours(25, channels=channels)
    factors = factors_of(name, 25)
    found = ADJUSTMENTS[name](images / 255, factors)
    torch.testing.assert_close(found, torchvision_adjust(name, images / 255, factors), rtol=0, atol=1e-5)
    usual = (factors.flatten() <= 1.4) & ((factors.flatten() >= 0.6) | (name == "hue"))
    apart = as_bytes(found) - torchvision_adjust(name, images, factors).float()
    assert apart[usual].abs().max() <= 1


def test_jitter_hue_of_every_colour():
    """Hue turns corners, edges, greys and insides of the colour cube as torchvision does, and never leaves 0..1."""
    levels = torch.tensor([0.0, 1e-6, 0.2, 0.5, 0.5 + 1e-6, 1.0])
    corners = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 12, 18)
    inside = torch.rand(3, 12, 18, generator=seeded())
    cube = torch.cat((corners, inside, inside / inside.amax(0)), 2)[None]  # the last are as bright as can be
    shifts = torch.linspace(-0.5, 0.5, 61).view(-1, 1, 1, 1)
    images = cube.repeat(61, 1, 1, 1)
    found = ADJUSTMENTS["hue"](images.clone(), shifts)
    torch.testing.assert_close(found, torchvision_adjust("hue", images, shifts), rtol=0, atol=1e-5)
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_jitter_chain_is_torchvisions(kind):
    """The item chains brightness, contrast, saturation and hue, as torchvision's functions do one after the other."""
    fixed = {"brightness": 1.3, "contrast": 0.6, "saturation": 1.7, "hue": -0.2}
    item = ColorJitter(**{name: (value, value) for name, value in fixed.items()})
    images = colours()
    expected = images / 255
    for name, value in fixed.items():
        expected = getattr(functional, f"adjust_{name}")(expected, value)
    found = item(images if kind == torch.uint8 else images / 255, seeded())
    assert found.dtype == torch.float32
    assert (as_bytes(found) - as_bytes(expected)).abs().max() <= 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ORDER)
def test_jitter_of_one_property(name):
    """Each key alone has its effect, with the others at 0; with all at 0 images stay as they are."""
    others, images = dict.fromkeys(ORDER, 0), colours()
    value = 0.3 if name == "hue" else 2.5
    found = ColorJitter(**others | {name: (value, value)})(images, seeded())
    expected = getattr(functional, f"adjust_{name}")(images / 255, value)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - images / 255).abs().max() > 0.1
    torch.testing.assert_close(ColorJitter(**others)(images, seeded()), images / 255)


# -- colour jitter: draws --------------------------------------------------------------------------------------------


def recovered(name, count, seed, **options):
    """The factors that the item drew for `count` images that are alike, found from its result."""
    item = ColorJitter(**(dict.fromkeys(ORDER, 0) | options))
    if name == "hue":  # blue: over cyan green rises, over magenta red
        image = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
        red, green, _ = item(image.repeat(count, 1, 1, 1), seeded(seed))[:, :, 0, 0].unbind(1)
        return (red - green) / 6
    image = torch.tensor([[0.2, 0.4], [0.3, 0.4], [0.4, 0.4]]).view(1, 3, 1, 2)
    found = item(image.repeat(count, 1, 1, 1), seeded(seed))
    if name == "brightness":
        return found[:, 0, 0, 1] / 0.4
    if name == "contrast":
        return (found[:, 0, 0, 1] - found[:, 0, 0, 0]) / 0.2
    return (found[:, 2, 0, 0] - found[:, 0, 0, 0]) / 0.2  # saturation


@pytest.mark.parametrize(
    ("name", "value", "low", "high"),
    [
        *((name, 0.4, 0.6, 1.4) for name in ORDER[:3]),
        ("brightness", 1.2, 0.0, 2.2),
        ("contrast", (0.2, 0.5), 0.2, 0.5),
        ("saturation", (1.0, 1.3), 1.0, 1.3),
        ("hue", 0.1, -0.1, 0.1),
        ("hue", (-0.15, 0.05), -0.15, 0.05),
    ],
)
def test_jitter_factors_are_uniform(name, value, low, high):
    """Factors are uniform between their ends (Kolmogorov-Smirnov, 2,000 images), each image's its own."""
    found = recovered(name, 2000, 1, **{name: value}).double().numpy()
    assert found.min() >= low - 1e-5 and found.max() <= high + 1e-5
    assert kstest(found, "uniform", (low, high - low)).pvalue > 0.001
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.1


def test_jitter_factors_are_independent():
    """The four factors of an image have nothing to do with each other."""
    settings = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    found = [recovered(name, 2000, 2, **{name: value}) for name, value in settings.items()]
    correlation = np.corrcoef(torch.stack(found).double().numpy())
    assert np.abs(correlation - np.eye(4)).max() < 0.1
