"""Transforms of colours and pixels: values against torchvision, draws by their statistics, refusals."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torchvision.transforms.v2 import functional

from runner.augmentation.blur import Blur
from runner.augmentation.gaussian_noise import GaussianNoise
from runner.augmentation.grayscale import Grayscale
from runner.augmentation.invert import Invert
from runner.augmentation.posterize import Posterize
from runner.augmentation.solarize import Solarize
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.images import as_bytes, coloured, colours, preflight, split_of

SOME = {"grayscale": Grayscale, "blur": Blur, "solarize": Solarize, "posterize": Posterize, "invert": Invert}


def rebuilt(name, *overrides):
    """An item as a config makes it, with overrides `key=value`."""
    words = [f"augmentation.{name}.{override}" for override in overrides]
    return Resources().stack(check(composed(f"augmentation=[{name}]", *words)), "augmentation")[name]


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
