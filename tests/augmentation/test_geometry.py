"""Contract and refusals of the transforms that move, cut or hide."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.task.resources import Resources
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.geometry import ITEMS, assert_close, fitted, levels, noise, split_of

KEEP_BYTES = ("vertical_flip", "translate", "cutout", "random_erasing")


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
