"""Transforms that move, cut or hide: values against torchvision, draws by what they do to ramps and plain images."""

import math

import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms
from torchvision.transforms.v2 import InterpolationMode, functional

from runner.augmentation.affine import Affine, affine
from runner.augmentation.cutout import Cutout, erase
from runner.augmentation.random_erasing import RandomErasing, random_bytes
from runner.augmentation.resized_crop import ResizedCrop, resized_crop
from runner.augmentation.rotate import Rotate, rotate
from runner.augmentation.scale import Scale, rescale
from runner.augmentation.translate import Translate, translate
from runner.augmentation.vertical_flip import VerticalFlip
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.data.splits import ResidentSplit
from runner.task.resources import Resources
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.draws import seeded

ITEMS = {
    "vertical_flip": VerticalFlip,
    "resized_crop": ResizedCrop,
    "scale": Scale,
    "rotate": Rotate,
    "translate": Translate,
    "affine": Affine,
    "cutout": Cutout,
    "random_erasing": RandomErasing,
}
KEEP_BYTES = ("vertical_flip", "translate", "cutout", "random_erasing")
MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}
SHAPES = [(3, 8, 8), (1, 28, 28), (3, 21, 34)]
LIKELY = 1e-3  # p-values below are failures


def noise(count, shape, seed=0):
    return torch.randint(0, 256, (count, *shape), generator=seeded(seed)).to(torch.uint8)


def split_of(images):
    return ResidentSplit(images, torch.zeros(len(images), dtype=torch.int64))


def fitted(kind, network=32, train=None, **options):
    transform = kind(**options)
    transform.fit(split_of(noise(4, (3, 8, 8))) if train is None else train, network)
    return transform


def levels(images):
    """Whole pixel values, as a picture file would have them."""
    return (images * 255).round().int() if images.is_floating_point() else images.int()


def assert_close(found, image):
    """Within one level of 255, after rounding."""
    assert (levels(found) - levels(image)).abs().max() <= 1


def surrounded(image, fill, function, *words):
    """What torchvision makes of an image that lies in a large field of the fill. (Its own `fill` is blended in twice
    at the image's edge: white on white gets a grey seam.)"""
    wide = function(pad(image, (image.shape[-1],) * 2 + (image.shape[-2],) * 2, value=fill), *words)
    return functional.center_crop(wide, list(image.shape[-2:]))


def ramps(count, side, dtype=torch.float32):
    """Images whose channels are x and y, in sides of the image, 0 at its left and upper edge, and a constant 1."""
    place = (torch.arange(side) + 0.5) / side
    planes = (place.expand(side, side), place[:, None].expand(side, side), torch.ones(side, side))
    return torch.stack(planes).expand(count, 3, side, side).to(dtype)


def seen(found, side, reach=1):
    """What results show of `ramps` of a side: the place `[B, 2]` (x, y) in the middle, in pixels from the old centre,
    and the map `[B, 2, 2]` from a step in the result to a step in the image, over `reach` pixels to each side."""
    middle = found.shape[-1] // 2
    ends = [middle - reach, middle + reach - 1]
    four = found[:, :2, ends][..., ends].double() * side
    place = four.mean((2, 3)) - side / 2
    right, down = (four[..., 1] - four[..., 0]).mean(2), (four[..., 1, :] - four[..., 0, :]).mean(2)
    return place, torch.stack((right, down), 2) / (2 * reach - 1)


def is_uniform(values, low, high, margin=1e-3):
    assert values.min() >= low - margin and values.max() <= high + margin
    assert kstest(values.numpy(), "uniform", (low, high - low)).pvalue > LIKELY


# -- every transform ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_images_stay_images(name, shape):
    """Bytes stay bytes where that is exact, else images are floats in [0, 1]; floats stay floats; sizes stay."""
    images = noise(32, shape)
    transform = fitted(ITEMS[name], shape[-1], split_of(images))
    for given in (images, images / 255):
        found = transform(given, seeded(1))
        assert found.shape == images.shape and found.is_contiguous()
        if name in KEEP_BYTES and given.dtype == torch.uint8:
            assert found.dtype == torch.uint8
        else:
            assert found.dtype == torch.float32 and found.min() >= 0 and found.max() <= 1
        assert levels(found).float().mean() > 30


@pytest.mark.parametrize("name", ITEMS)
def test_each_image_has_its_own_draw(name):
    """Copies of one image become different images; another seed gives others, the same seed the same."""
    images = noise(1, (3, 16, 16)).expand(64, 3, 16, 16)
    transform = fitted(ITEMS[name], 16)
    found = transform(images, seeded(2))
    assert len(found.flatten(1).unique(dim=0)) > (1 if name == "vertical_flip" else 15)
    assert not torch.equal(found[:32], found[32:])
    assert torch.equal(found, transform(images, seeded(2)))
    assert not torch.equal(found, transform(images, seeded(3)))


@pytest.mark.parametrize("name", ITEMS)
def test_draws_come_from_the_generator_only(name):
    """torch's own stream and the images that came in stay as they are."""
    images = noise(16, (1, 16, 16))
    copy, state = images.clone(), torch.get_rng_state()
    transform = fitted(ITEMS[name], 16, split_of(images))
    for given in (images, images.float() / 255):
        before = given.clone()
        transform(given, seeded())
        assert torch.equal(given, before)
    assert torch.equal(images, copy) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ITEMS)
def test_bytes_and_floats_are_treated_alike(name):
    """The same draws give the same picture of bytes and of floats in [0, 1]."""
    images = noise(64, (3, 16, 16))
    transform = fitted(ITEMS[name], 16, split_of(images))
    assert_close(transform(images / 255, seeded(4)), transform(images, seeded(4)))


@pytest.mark.parametrize("name", ["rotate", "affine"])
def test_nearest_keeps_bytes(name):
    """`interpolation: nearest` takes pixels as they are: bytes in, bytes out, no value that was not there."""
    images = (noise(64, (3, 16, 16)) % 5 + 1) * 50
    found = fitted(ITEMS[name], interpolation="nearest", fill=7)(images, seeded())
    assert found.dtype == torch.uint8
    assert set(found.unique().tolist()) == {7, 50, 100, 150, 200, 250}
    assert fitted(ITEMS[name], interpolation="bilinear")(images, seeded()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rotate", {"degrees": [10, 30]}),
        ("translate", {}),
        ("affine", {}),
        ("scale", {"scale": [0.5, 0.9]}),
        ("cutout", {}),
        ("random_erasing", {"p": 1.0}),
    ],
)
@pytest.mark.parametrize("fill", [0, 85, 255])
def test_fill_shows(name, options, fill):
    """What comes into the picture, or hides it, has the value that was asked for, in bytes and in floats."""
    key = "value" if name == "random_erasing" else "fill"
    transform = fitted(ITEMS[name], **options, **{key: fill})
    for images in (torch.full((32, 3, 16, 16), 170, dtype=torch.uint8), torch.full((32, 3, 16, 16), 2 / 3)):
        found = levels(transform(images, seeded()))
        lowest, highest = min(fill, 170), max(fill, 170)
        assert (found.min(), found.max()) == (lowest, highest)
        assert ((found == fill).sum((1, 2, 3)) > 0).float().mean() > 0.7  # of the images


class _NoWaiting(TorchDispatchMode):
    """Fails where a GPU's host would have to wait: values read, or sizes that follow from values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal"), name
        masks = [part for part in args[1] if part is not None] if name in ("index", "index_put_") else []
        assert all(part.dtype not in (torch.bool, torch.uint8) for part in masks)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ITEMS)
def test_nothing_waits_for_the_device(name):
    """No transform reads a value back while it works."""
    transforms_ = [fitted(ITEMS[name], 16)]
    if name in ("rotate", "affine"):
        transforms_.append(fitted(ITEMS[name], interpolation="nearest", fill=9))
    if name == "random_erasing":
        transforms_.append(fitted(ITEMS[name], value="mean"))
    images = noise(8, (3, 16, 16))
    with _NoWaiting():
        for transform in transforms_:
            transform(images, seeded())
            transform(images / 255, seeded())


def test_all_of_them_in_one_pipeline():
    """All items one after another give a batch that a network can take."""
    config, cpu = (
        check(composed("data.limit=200", "model=mlp", f"augmentation=[{','.join(ITEMS)}]")),
        torch.device("cpu"),
    )
    builder = Resources()
    splits = builder.splits(config)
    run = TrainState(config, builder.parts(config, splits, cpu, seeded(), rules=()), cpu, seeded())
    batch = run.next_batch()
    assert batch.images.shape == (64, 1, 8, 8) and batch.images.isfinite().all()


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


# -- resized_crop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "size"), [(s, z) for s in SHAPES for z in (8, 28)] + [((3, 72, 72), 64)])
def test_resized_crop_values(shape, size):
    """Each box, resized to the network's size, is torchvision's `resized_crop` of it with antialias."""
    images = noise(5, shape)
    height, width = shape[1:]
    boxes = [(0, 0, height, width), (1, 2, 5, 4), (2, 1, 3, 6), (height - 4, width - 7, 4, 7), (3, 0, height - 3, 1)]
    found = resized_crop(images, *torch.tensor(boxes).T, size)
    for image, box, result in zip(images, boxes, found, strict=True):
        assert_close(result, functional.resized_crop(image, *box, [size, size], antialias=True))


def boxes_seen(found, side):
    """Top, left, height and width of the boxes that results show of `ramps`, in pixels."""
    place, step = seen(found, side)
    sides = step.diagonal(dim1=1, dim2=2) * found.shape[-1]  # width, height
    corner = place + side / 2 - sides / 2
    exact = torch.stack((corner[:, 1], corner[:, 0], sides[:, 1], sides[:, 0]))
    whole = exact.round()
    torch.testing.assert_close(exact, whole, atol=0.01, rtol=0)
    return whole.long()


def torchvision_boxes(kind, count, side, **options):
    """What torchvision's own transform draws."""
    image = torch.zeros(3, side, side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.tensor([kind.get_params(image, **options)[:4] for _ in range(count)]).T


def same_boxes(found, wanted):
    """Areas, shapes and places of two samples come from the same distributions."""
    for value in (
        lambda top, left, height, width: height * width,
        lambda top, left, height, width: width / height,
        lambda top, left, height, width: height,
        lambda top, left, height, width: top,
        lambda top, left, height, width: left,
    ):
        assert ks_2samp(value(*found).numpy(), value(*wanted).numpy()).pvalue > LIKELY


@pytest.mark.parametrize(
    ("scale", "ratio", "size"),
    [
        ([0.08, 1.0], [0.75, 1.3333], 32),
        ([0.2, 0.5], [0.5, 0.9], 40),
        ([0.9, 1.0], [0.5, 2.0], 32),  # most draws do not fit
        ([0.8, 0.8], [2.0, 3.0], 32),  # none does: the largest box at the centre
    ],
)
def test_resized_crop_boxes(scale, ratio, size):
    """Boxes are distributed as torchvision's: area uniform, ratio log-uniform, places uniform (2,000 draws)."""
    transform = fitted(ResizedCrop, size, scale=scale, ratio=ratio)
    found = boxes_seen(transform(ramps(2000, 32), seeded(10)), 32)
    same_boxes(found, torchvision_boxes(transforms.RandomResizedCrop, 2000, 32, scale=scale, ratio=ratio))
    shares = found[2] * found[3] / 32**2
    assert shares.max() <= scale[1] * 1.1 and (shares.min() >= scale[0] * 0.9 or scale == [0.8, 0.8])


@pytest.mark.parametrize("ratio", [[2.0, 3.0], [0.25, 0.5]])
def test_resized_crop_falls_back_to_the_centre(ratio):
    """Where no draw can fit, the largest box of an allowed ratio at the centre is taken, as torchvision does."""
    top, left, height, width = boxes_seen(
        fitted(ResizedCrop, 32, scale=[1, 1], ratio=ratio)(ramps(3, 32), seeded()), 32
    )
    wanted = torchvision_boxes(transforms.RandomResizedCrop, 3, 32, scale=[1.0, 1.0], ratio=ratio)
    assert torch.equal(torch.stack((top, left, height, width)), wanted)


def test_resized_crop_gives_what_enters_the_network():
    """Photos kept at 72 pixels become the network's 64."""
    assert fitted(ResizedCrop, 64)(noise(4, (3, 72, 72)), seeded()).shape == (4, 3, 64, 64)


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


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("vertical_flip.p=1.1", "must be between 0 and 1"),
        ("vertical_flip.p=-0.1", "must be between 0 and 1"),
        ("rotate.degrees=-5", "must be at least 0 (so many degrees either way), or [MIN,MAX]"),
        ("rotate.degrees=[30,10]", "must be two numbers in order, [MIN,MAX]"),
        ("rotate.degrees=[1,2,3]", "must be two numbers in order, [MIN,MAX]"),
        ("rotate.interpolation=bicubic", "must be 'nearest' or 'bilinear'"),
        ("rotate.fill=256", "must be at most 255"),
        ("translate.translate=[0.1]", "must be two fractions of the side, [X,Y]"),
        ("translate.translate=[1.1,0]", "must be at most 1"),
        ("translate.translate=[0.01,0.05]", "nothing moves by half a pixel or more; 0.12 is one pixel of 8"),
        ("translate.fill=-1", "must be at least 0"),
        ("scale.scale=[1.2,0.8]", "must be two numbers in order, [MIN,MAX]"),
        ("scale.scale=[0,1]", "must be above 0"),
        ("scale.scale=[0.1,1]", "makes less than a pixel of 8; the smallest factor must be at least 0.126"),
        ("scale.fill=300", "must be at most 255"),
        ("affine.degrees=-1", "must be at least 0 (so many degrees either way), or [MIN,MAX]"),
        ("affine.translate=[0.1,0.1,0.1]", "must be two fractions of the side, [X,Y]"),
        ("affine.scale=[2,1]", "must be two numbers in order, [MIN,MAX]"),
        ("affine.scale=[inf,inf]", "must be a finite number"),
        ("affine.shear=90", "must be above -90 and below 90 degrees"),
        ("affine.shear=[0,1,-95,2]", "must be above -90 and below 90 degrees"),
        ("affine.shear=[1,2,3]", "must be a number, [MIN,MAX], or [MIN,MAX,MIN,MAX], in order"),
        ("affine.shear=[0,1,5,2]", "must be a number, [MIN,MAX], or [MIN,MAX,MIN,MAX], in order"),
        ("resized_crop.scale=[0.5,0.2]", "must be two numbers in order, [MIN,MAX]"),
        ("resized_crop.scale=[0.5,1.5]", "must be at most 1"),
        (
            "resized_crop.scale=[0.001,0.002]",
            "less than a pixel of the image's 64; the largest part must be at least 0.0158",
        ),
        ("resized_crop.ratio=[0,1]", "must be above 0"),
        ("resized_crop.ratio=[2,1]", "must be two numbers in order, [MIN,MAX]"),
        ("cutout.size=0", "must be at least 1 or must be 'auto'"),
        ("cutout.size=9", "larger than the 8 pixels of an image, which it would hide; use less, or auto for half"),
        ("cutout.fill=300", "must be at most 255 or must be 'mean'"),
        ("random_erasing.p=2", "must be at most 1"),
        ("random_erasing.scale=[0.4,0.3]", "must be two numbers in order, [MIN,MAX]"),
        ("random_erasing.ratio=[3,1]", "must be two numbers in order, [MIN,MAX]"),
        ("random_erasing.value=noise", "must be a number or must be 'mean' or 'random'"),
        (
            "random_erasing.scale=[1,1]",
            " with ratio=[0.3,3.3]: no such box fits into an image; use a smaller scale, or a ratio nearer 1",
        ),
    ],
)
def test_bad_values_are_refused(word, line):
    """What cannot work is refused before training, in a line with the value and what is allowed."""
    item = word.partition(".")[0]
    with pytest.raises(ConfigError) as refused:
        Resources().preflight(
            check(composed("data.limit=200", "model=mlp", f"augmentation=[{item}]", f"augmentation.{word}"))
        )
    assert str(refused.value) == f"augmentation.{word}" + ("" if line.startswith(" with") else ": ") + line


@pytest.mark.parametrize("word", ["cutout.size=8", "translate.translate=[0.07,0]", "resized_crop.scale=[0.01,0.016]"])
def test_the_largest_and_smallest_that_work(word):
    """A square as large as the image, a shift of one pixel and a part of one pixel are accepted."""
    item = word.partition(".")[0]
    Resources().preflight(check(composed("data.limit=200", f"augmentation=[{item}]", f"augmentation.{word}")))


def test_refusals_are_collected():
    """Several items that do not fit are all named at once."""
    words = (
        "augmentation=[cutout,translate]",
        "augmentation.cutout.size=9",
        "augmentation.translate.translate=[0.01,0]",
    )
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed("data.limit=200", "model=mlp", *words)))
    assert len(refused.value.lines) == 2
