"""Colour offsets along the principal components of the training pixels, against NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from runner.augmentation.color_offset import ColorOffset, covariance
from runner.core.errors import ConfigError
from tests.shared.draws import seeded
from tests.shared.images import coloured, colours, preflight, split_of


def fitted(images, **options):
    item = ColorOffset(**options)
    item.fit(split_of(images), images.shape[-1])
    return item


@pytest.mark.parametrize("channels", [1, 3])
def test_color_offset_covariance_is_numpys(channels):
    """The covariance of the colours of all training pixels, in 0..1."""
    images = colours(40, channels=channels)
    pixels = images.permute(1, 0, 2, 3).reshape(channels, -1).double().numpy() / 255
    expected = np.cov(pixels, bias=True).reshape(channels, channels)
    np.testing.assert_allclose(covariance(split_of(images)).numpy(), expected, rtol=1e-10)


def test_color_offset_of_much_data():
    """Of many images, and of large ones, an even share is looked at: a data set in two halves is found as a whole."""
    images = torch.zeros(5000, 1, 2, 2, dtype=torch.uint8)
    images[2500:] = 255
    assert covariance(split_of(images)).item() == pytest.approx(0.25, rel=1e-3)
    photos = torch.zeros(2, 1, 128, 128, dtype=torch.uint8)
    photos[..., 64:] = 255
    assert covariance(split_of(photos)).item() == pytest.approx(0.25, rel=1e-3)


def test_color_offset_formula():
    """Each image gets one colour: eigenvectors times deviations along them times the drawn normals."""
    data, count = colours(40), 6
    item = fitted(data, std=0.05)
    images = torch.full((count, 3, 2, 2), 0.5)
    offsets = item(images, seeded(3)) - 0.5
    assert torch.equal(offsets, offsets[:, :, :1, :1].expand_as(offsets))
    assert len(offsets[:, 0, 0, 0].unique()) == count
    pixels = data.permute(1, 0, 2, 3).reshape(3, -1).double().numpy() / 255
    values, vectors = np.linalg.eigh(np.cov(pixels, bias=True))
    alphas = (offsets[:, :, 0, 0].double().numpy() @ vectors) / np.sqrt(values)  # up to each vector's sign
    drawn = 0.05 * torch.randn(count, 3, generator=seeded(3)).numpy()
    np.testing.assert_allclose(np.abs(alphas), np.abs(drawn), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_color_offset_distribution(std):
    """Offsets are normal, with the data's covariance times std squared: the noise is proportionate to the data's."""
    data, count = colours(40), 20000
    item = fitted(data, std=std)
    offsets = (item(torch.full((count, 3, 1, 1), 0.5), seeded(4)) - 0.5)[:, :, 0, 0].double().numpy()
    expected = covariance(split_of(data)).numpy() * std**2
    np.testing.assert_allclose(np.cov(offsets.T), expected, atol=0.05 * expected.max())
    assert kstest(offsets[:, 0] / math.sqrt(expected[0, 0]), "norm").pvalue > 0.001


def test_color_offset_is_clipped_and_takes_bytes():
    """Bytes become floats in 0..1, and stay there; std=0 only converts."""
    images = colours()
    found = fitted(images, std=2.0)(images, seeded())
    assert found.dtype == torch.float32 and found.min() == 0 and found.max() == 1
    torch.testing.assert_close(fitted(images, std=0)(images, seeded()), images / 255)


def test_color_offset_of_grey_data():
    """With one channel the offset is a shift of brightness."""
    preflight("color_offset")
    images = colours(channels=1)
    found = fitted(images)(torch.full((4, 1, 3, 3), 0.5), seeded())
    assert found.shape == (4, 1, 3, 3) and len(found.unique()) == 4


def test_color_offset_on_constant_data_is_refused(tmp_path):
    """Where every training pixel has one colour there are no components; one channel that varies is enough."""
    pixels = np.full((12, 8, 8, 3), (10, 20, 255), dtype=np.uint8)
    data = coloured(tmp_path, pixels)
    with pytest.raises(ConfigError, match="augmentation.color_offset: every channel .* is constant, .*; leave it out"):
        preflight("color_offset", data=data)
    pixels[:6, :, :, 1] = 21
    preflight("color_offset", data=coloured(tmp_path, pixels))
