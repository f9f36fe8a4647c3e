"""Transforms of colours and pixels: values against torchvision and NumPy, parameters by their statistics, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torchvision.transforms.v2 import functional

from runner.augmentation.blur import Blur
from runner.augmentation.color_jitter import ADJUSTMENTS, ColorJitter
from runner.augmentation.color_offset import ColorOffset, covariance
from runner.augmentation.gaussian_noise import GaussianNoise
from runner.augmentation.grayscale import Grayscale
from runner.augmentation.invert import Invert
from runner.augmentation.posterize import Posterize
from runner.augmentation.solarize import Solarize
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.data.splits import ResidentSplit
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded

SOME = {"grayscale": Grayscale, "blur": Blur, "solarize": Solarize, "posterize": Posterize, "invert": Invert}
ORDER = ("brightness", "contrast", "saturation", "hue")


def colours(count=24, side=9, channels=3):
    """Bytes of every kind: plain noise, darkened, paled and grey images, so that channels tie and clamps bite."""
    images = torch.randint(0, 256, (count, channels, side, side), generator=seeded()).to(torch.uint8)
    images[1::4] //= 16
    images[2::4] = images[2::4] // 8 + 200
    images[3::4] = images[3::4, :1] // 64 * 85
    return images


def as_bytes(images):
    return (images * 255).round()


def rebuilt(name, *overrides):
    """An item as a config makes it, with overrides `key=value`."""
    words = [f"augmentation.{name}.{override}" for override in overrides]
    return Resources().stack(check(composed(f"augmentation=[{name}]", *words)), "augmentation")[name]


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


# -- colour offset ---------------------------------------------------------------------------------------------------


def split_of(images):
    return ResidentSplit(images, torch.zeros(len(images), dtype=torch.long))


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


# -- those that change some images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SOME)
def test_rate(name, p, kind):
    """A share p of the images is changed, each by a draw of its own; the others stay exactly as they are."""
    count = 3000
    image = torch.tensor([10.0, 100.0, 200.0]).view(3, 1, 1) + torch.arange(9.0).view(1, 3, 3)
    images = image.to(torch.uint8).repeat(count, 1, 1, 1)
    images = images if kind == torch.uint8 else images / 255
    found = SOME[name](p=p, **({"sigma": 1.0} if name == "blur" else {}))(images, seeded(5))
    plain = images / 255 if kind == torch.uint8 and found.dtype != kind else images
    changed = (found != plain).flatten(1).any(1)
    assert abs(changed.double().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / count)
    if p == 0.3:
        turns = (changed[1:] != changed[:-1]).double().mean().item()
        assert abs(turns - 2 * p * (1 - p)) < 0.06


@pytest.mark.parametrize("name", ["solarize", "posterize", "invert"])
def test_bytes_stay_bytes(name):
    """Where the result is exact bytes stay bytes, and floats agree with them."""
    images = colours()
    found = SOME[name]()(images, seeded(6))
    assert found.dtype == torch.uint8
    floats = SOME[name]()(images / 255, seeded(6))
    assert floats.dtype == torch.float32
    torch.testing.assert_close(floats, found / 255, rtol=0, atol=1e-6)


def test_floats_are_judged_as_bytes():
    """A float a little below or above a byte is solarized and posterized as that byte is."""
    levels = torch.arange(256).view(1, 1, 16, 16).to(torch.uint8)
    for apart in (-0.3, 0.3):
        floats = ((levels + apart) / 255).clamp(0, 1)
        dark, plain = Solarize(100, p=1.0)(floats, seeded()), Solarize(100, p=1.0)(levels, seeded())
        assert (dark - plain / 255).abs().max() < 0.4 / 255
        assert torch.equal(Posterize(3, p=1.0)(floats, seeded()), Posterize(3, p=1.0)(levels, seeded()) / 255)


def test_invert_is_torchvisions():
    """At p=1 every image is its negative, exactly."""
    images = colours()
    assert torch.equal(Invert(p=1.0)(images, seeded()), functional.invert(images))
    assert torch.equal(Invert(p=1.0)(images / 255, seeded()), functional.invert(images / 255))


@pytest.mark.parametrize("threshold", [0, 100, 128, 255])
def test_solarize_is_torchvisions(threshold):
    """Pixels at or above the threshold are inverted, exactly."""
    images = colours()
    found = Solarize(threshold, p=1.0)(images, seeded())
    assert torch.equal(found, functional.solarize(images, threshold))


@pytest.mark.parametrize("bits", range(1, 8))
def test_posterize_is_torchvisions(bits):
    """The highest bits are kept, exactly."""
    images = colours()
    found = Posterize(bits, p=1.0)(images, seeded())
    assert torch.equal(found, functional.posterize(images, bits))


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_grayscale_is_torchvisions(kind):
    """Three equal channels, torchvision's weights; within 1 of its bytes, which it rounds down."""
    images = colours() if kind == torch.uint8 else colours() / 255
    found = Grayscale(p=1.0)(images, seeded())
    assert found.dtype == torch.float32 and found.shape == images.shape
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    expected = functional.rgb_to_grayscale(images, num_output_channels=3)
    if kind == torch.uint8:
        assert (as_bytes(found) - expected.float()).abs().max() <= 1
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


# -- blur ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "sigma"), [(3, 0.5), (3, 2.0), (7, 1.3), (17, 4.0)])
def test_blur_is_torchvisions(size, sigma, channels):
    """A fixed width gives torchvision's blur, edges included, up to kernels twice as long as the image."""
    images = colours(channels=channels)
    found = Blur(size, sigma, p=1.0)(images, seeded())
    floats = functional.gaussian_blur(images / 255, size, sigma)
    torch.testing.assert_close(found, floats, rtol=0, atol=1e-5)
    assert (as_bytes(found) - functional.gaussian_blur(images, size, sigma).float()).abs().max() <= 1


def test_blur_widths_are_uniform():
    """Each image has a width of its own, uniform in the range (Kolmogorov-Smirnov), found from a blurred point."""
    images = torch.zeros(2000, 1, 9, 9)
    images[:, :, 4, 4] = 1
    found = Blur(kernel_size=3, sigma=(0.4, 1.2), p=1.0)(images, seeded(7)).double()
    sigma = (-0.5 / (found[:, 0, 4, 5] / found[:, 0, 4, 4]).log()).sqrt().numpy()
    assert kstest(sigma, "uniform", (0.4, 0.8)).pvalue > 0.001
    assert found[:, 0, :3].abs().max() == 0  # the kernel has three pixels


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (28, 1), (32, 1), (64, 3), (224, 11)])
def test_blur_auto_is_a_tenth(side, reach):
    """`auto`: kernels of 3 pixels for sides of 8 to 32, 7 for 64, 23 for 224."""
    images = torch.zeros(1, 1, side, side)
    images[..., side // 2, side // 2] = 1
    found = Blur(sigma=50.0, p=1.0)(images, seeded())
    touched = (found[0, 0] > 0).any(0).nonzero().flatten()
    assert (touched[0].item(), touched[-1].item()) == (side // 2 - reach, side // 2 + reach)


def test_blur_of_width_zero_changes_nothing():
    """sigma=0 leaves images as they are."""
    images = colours()
    assert torch.equal(Blur(sigma=0.0, p=1.0)(images, seeded()), images / 255)


# -- gaussian noise --------------------------------------------------------------------------------------------------


def test_noise_is_normal():
    """Every pixel and channel of every image has its own normal noise of the deviation asked for."""
    images = torch.full((8, 3, 16, 16), 0.5)
    noise = (GaussianNoise(std=0.05)(images, seeded(8)) - 0.5).double().flatten()
    assert kstest(noise.numpy() / 0.05, "norm").pvalue > 0.001
    assert len(noise.unique()) > 0.95 * len(noise)


def test_noise_deviations_are_uniform():
    """With [MIN,MAX] each image draws its deviation in between."""
    images = torch.full((600, 1, 32, 32), 0.5)
    noise = GaussianNoise(std=(0.02, 0.12))(images, seeded(9)) - 0.5
    deviations = noise.double().flatten(1).std(1).numpy()
    assert kstest(deviations, "uniform", (0.02, 0.1)).pvalue > 0.001


def test_noise_is_clipped():
    """Bytes become floats, and no value leaves 0..1; std=0 only converts."""
    images = colours()
    found = GaussianNoise(std=1.0)(images, seeded())
    assert found.dtype == torch.float32 and found.min() == 0 and found.max() == 1
    torch.testing.assert_close(GaussianNoise(std=0.0)(images, seeded()), images / 255)


# -- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SOME, "color_jitter", "color_offset", "gaussian_noise"])
def test_input_is_left_alone(name):
    """Images are read, never written: floats and views that repeat one image alike."""
    item = rebuilt(name)
    item.fit(split_of(colours()), 9)
    for images in (colours(), colours() / 255, (colours(1) / 255).expand(8, 3, 9, 9)):
        copy = images.clone()
        found = item(images, seeded())
        assert torch.equal(images, copy) and found.shape == images.shape
        found.fill_(0)
        assert torch.equal(images, copy)


@pytest.mark.parametrize("name", [*SOME, "color_jitter", "color_offset", "gaussian_noise"])
def test_host_never_waits(name):
    """No value is read back while a transform runs: it works on tensors that have none, which raise where one is."""
    item = rebuilt(name)
    item.fit(split_of(colours()), 9)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for images in (mode.from_tensor(colours()), mode.from_tensor(colours() / 255)):
            assert item(images, seeded()).shape == images.shape
        with pytest.raises(DataDependentOutputException):
            images.sum().item()


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "override", "line"),
    [
        *((name, "p=1.5", "augmentation.{name}.p=1.5: must be at most 1") for name in SOME),
        *((name, "p=-0.5", "augmentation.{name}.p=-0.5: must be at least 0") for name in SOME),
        ("color_jitter", "hue=0.7", "augmentation.color_jitter.hue=0.7: must be at most 0.5"),
        ("color_jitter", "hue=[-0.7,0]", "augmentation.color_jitter.hue=[-0.7,0]: "),
        ("color_jitter", "hue=[0.2,0.1]", "augmentation.color_jitter.hue=[0.2,0.1]: "),
        ("color_jitter", "brightness=-1", "augmentation.color_jitter.brightness=-1: must be at least 0"),
        ("color_jitter", "contrast=[1]", "augmentation.color_jitter.contrast=[1]: "),
        ("color_jitter", "saturation=[2,1]", "augmentation.color_jitter.saturation=[2,1]: "),
        ("color_offset", "std=-1", "augmentation.color_offset.std=-1: must be at least 0"),
        ("blur", "kernel_size=4", "augmentation.blur.kernel_size=4: must be auto, or an odd number from 3 on"),
        ("blur", "kernel_size=1", "augmentation.blur.kernel_size=1: must be auto, or an odd number from 3 on"),
        ("blur", "sigma=-1", "augmentation.blur.sigma=-1: must be at least 0"),
        ("blur", "sigma=[2,1]", "augmentation.blur.sigma=[2,1]: "),
        ("solarize", "threshold=256", "augmentation.solarize.threshold=256: must be at most 255"),
        ("posterize", "bits=8", "augmentation.posterize.bits=8: must be at most 7"),
        ("posterize", "bits=0", "augmentation.posterize.bits=0: must be at least 1"),
        ("gaussian_noise", "std=2", "augmentation.gaussian_noise.std=2: must be at most 1"),
        ("gaussian_noise", "std=[0.2,0.1]", "augmentation.gaussian_noise.std=[0.2,0.1]: "),
    ],
)
def test_ranges(name, override, line):
    """Values outside their range are refused by a line that names them."""
    with pytest.raises(ConfigError) as refused:
        rebuilt(name, override)
    assert str(refused.value).startswith(line.format(name=name))


def test_blur_longer_than_the_image_is_refused():
    """A kernel whose half does not fit into the image is refused with the longest that does."""
    with pytest.raises(Refused, match="kernel_size=17: would mirror 8 pixels .* images of 8; use at most 15, or auto"):
        preflight("blur", "kernel_size=17")
    preflight("blur", "kernel_size=15")


def test_colours_on_grey_data_are_refused(tmp_path):
    """Saturation, hue and grayscale need 3 channels; the line says how to leave them out, and that works."""
    with pytest.raises(Refused) as refused:
        preflight("color_jitter")
    (line,) = refused.value.lines
    assert line == (
        "augmentation.color_jitter.saturation=0.4, augmentation.color_jitter.hue=0.1: needs 3 channels, and the "
        "images have 1; set augmentation.color_jitter.saturation=0 augmentation.color_jitter.hue=0"
    )
    with pytest.raises(Refused, match="hue=0.1: needs 3 channels, and the images have 1; set [a-z_.]*hue=0$"):
        preflight("color_jitter", "saturation=0")
    preflight("color_jitter", "saturation=0", "hue=0")
    with pytest.raises(Refused, match="augmentation.grayscale: needs 3 channels, and the images have 1; leave it out"):
        preflight("grayscale")
    for name in ("color_jitter", "grayscale"):
        preflight(name, data=coloured(tmp_path))


def test_command_line(cli, tmp_path):
    """All items together train on colour images; a refusal is one line, and exit code 2."""
    names = ",".join([*SOME, "color_jitter", "color_offset", "gaussian_noise"])
    data = coloured(tmp_path)
    code, _, err = cli(*data, "model=mlp", "epochs=1", "threads=1", f"augmentation=[{names}]", "log.tensorboard=false")
    assert code == 0, err
    code, _, err = cli("data.limit=200", "augmentation=[grayscale]")
    assert code == 2 and "augmentation.grayscale: needs 3 channels" in err and "Traceback" not in err
