"""Contract of every transform of the pipeline: it changes images, by its own generator alone."""

import pytest
import torch

from runner.augmentation.base import Transform
from runner.build.check import check
from runner.data.splits import ResidentSplit
from runner.task.resources import Resources
from tests.shared.configs import GROUP_OPTIONS, composed, split
from tests.shared.draws import seeded
from tests.shared.images import numbered

ITEMS = [split(option)[1] for option in GROUP_OPTIONS if option.startswith("augmentation/")]

NEEDS = {"torchvision": ["augmentation.torchvision.name=RandomPerspective", "+augmentation.torchvision.p=1"]}
PLAIN = [name for name in ITEMS if name not in ("cifar", "imagenet", "none")]  # these are lists of others


def built(name, size=8):
    """The item at its defaults, fitted to 40 random colour images."""
    config = check(composed(f"augmentation=[{name}]", *NEEDS.get(name, [])))
    transform = Resources().stack(config, "augmentation")[name]
    images = torch.randint(0, 256, (40, 3, size, size), generator=seeded(9)).to(torch.uint8)
    transform.fit(ResidentSplit(images, torch.arange(40) % 2), size)
    return transform


@pytest.mark.parametrize("name", PLAIN)
def test_each_transform_changes_images(name):
    """At its defaults a transform changes images, and not each one in the same way."""
    images = torch.randint(0, 256, (1, 3, 8, 8), generator=seeded()).to(torch.uint8).expand(64, 3, 8, 8)
    found = built(name)(images, seeded())
    assert found.shape[:2] == images.shape[:2] and found.dtype in (torch.uint8, torch.float32)
    assert found.min() >= 0 and (found.dtype == torch.uint8 or found.max() <= 1)
    assert not torch.equal(found, images)
    assert len(found.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("name", PLAIN)
def test_each_transform_draws_from_its_generator_only(name):
    """The same generator gives the same images, another one others; torch's stream and the input stay as they are."""
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=seeded()).to(torch.uint8)
    copy, transform = images.clone(), built(name)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = transform(images, seeded(1))
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(images, copy)
    torch.manual_seed(1)
    assert torch.equal(transform(images, seeded(1)), first)
    assert not torch.equal(transform(images, seeded(2)), first)


@pytest.mark.parametrize("name", PLAIN)
def test_each_transform_takes_floats(name):
    """Images in [0, 1] are treated as bytes are."""
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=seeded()).to(torch.uint8)
    transform = built(name)
    as_bytes, as_floats = transform(images, seeded(3)), transform(images / 255, seeded(3))
    assert as_floats.dtype == torch.float32
    as_bytes = as_bytes / 255 if as_bytes.dtype == torch.uint8 else as_bytes
    torch.testing.assert_close(as_floats, as_bytes, rtol=0, atol=1.001 / 255)


def test_base_fits_quietly_and_has_no_transform():
    """The base accepts `fit` and leaves the transform to its subclasses."""
    Transform().fit(None, 8)
    with pytest.raises(NotImplementedError):
        Transform()(numbered(1), seeded())
