"""Torchvision's transforms and policies in the pipeline, and the presets: values by hand, seeds, refusals."""

import inspect

import pytest
import torch
from torchvision.transforms import v2

from runner.augmentation.augmix import AugMix
from runner.augmentation.autoaugment import AutoAugment
from runner.augmentation.flip import Flip
from runner.augmentation.randaugment import RandAugment
from runner.augmentation.torchvision_transform import TRIED, TorchvisionTransform
from runner.augmentation.trivialaugment import TrivialAugment
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.store.fingerprint import fingerprints
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded

BILINEAR, NEAREST = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.NEAREST
POLICIES = {
    RandAugment: v2.RandAugment,
    TrivialAugment: v2.TrivialAugmentWide,
    AutoAugment: v2.AutoAugment,
    AugMix: v2.AugMix,
}
ITEMS = [*(policy() for policy in POLICIES), TorchvisionTransform("RandomPerspective", p=0.9)]
NAMES = [type(item).__name__ for item in ITEMS]

# Each option of each policy away from its default: as the runner has it, as torchvision has it.
OPTIONS = [
    (RandAugment, "num_ops", 3, 3),
    (RandAugment, "magnitude", 25, 25),
    (RandAugment, "num_magnitude_bins", 12, 12),
    (TrivialAugment, "num_magnitude_bins", 3, 3),
    (AutoAugment, "policy", "cifar10", v2.AutoAugmentPolicy.CIFAR10),
    (AutoAugment, "policy", "svhn", v2.AutoAugmentPolicy.SVHN),
    (AugMix, "severity", 9, 9),
    (AugMix, "mixture_width", 1, 1),
    (AugMix, "chain_depth", 4, 4),
    (AugMix, "alpha", 4.0, 4.0),
    (AugMix, "all_ops", False, False),
    (AugMix, "interpolation", "nearest", NEAREST),
    *((policy, "interpolation", "bilinear", BILINEAR) for policy in POLICIES if policy is not AugMix),
    *((policy, "fill", 90.0, 90.0) for policy in POLICIES),
]


def photos(count=24, channels=3, side=16):
    """Smooth random images, on which every operation is seen."""
    small = torch.rand(count, channels, 4, 4, generator=seeded(7))
    large = torch.nn.functional.interpolate(small, size=side, mode="bicubic", antialias=False)
    return (large.clamp(0, 1) * 255).to(torch.uint8)


def by_hand(transform, images, seed):
    """Torchvision's transform, image by image, its global seed the first draw of the pipeline's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=seeded(seed))))
        return torch.stack([transform(image) for image in images])


def context(item, channels=3, size=16, stored=None, **before):
    """A combination whose pipeline ends in the item."""
    pipeline = {**before, "torchvision": item}
    return Context({}, None, channels, channels, stored or size, size, 10, 100, True, {}, pipeline)


# -- every item -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ITEMS, ids=NAMES)
def test_draws_follow_from_the_generator_alone(item):
    """A seed gives the same images whatever torch's own stream; that stream and the input stay as they are."""
    images = photos()
    before = images.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = item(images, seeded(1))
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(images, before)
    torch.manual_seed(1)
    assert torch.equal(item(images, seeded(1)), first)
    assert not torch.equal(item(images, seeded(2)), first)
    generator = seeded(1)
    item(images, generator)
    assert not torch.equal(item(images, generator), first)  # the next batch has other draws


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("item", ITEMS, ids=NAMES)
def test_each_image_has_its_own_draw(item, channels):
    """The same image 200 times over comes back in many versions; grey ones too, with all operations of a policy."""
    images = photos(1, channels).expand(200, -1, -1, -1)
    found = item(images, seeded(3))
    assert found.shape == images.shape and found.dtype == torch.uint8
    assert len(found.flatten(1).unique(dim=0)) > 20


@pytest.mark.parametrize("item", ITEMS, ids=NAMES)
def test_floats_are_bytes_inside(item):
    """Images in [0, 1] are rounded to bytes, transformed as those are, and come back in [0, 1]."""
    images = photos()
    found = item(images / 255 + 0.3 / 255, seeded(4))
    assert found.dtype == torch.float32
    assert torch.equal(found, item(images, seeded(4)) / 255)


# -- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_defaults_are_torchvisions(policy):
    """Without options an item is torchvision's class without arguments."""
    images = photos()
    assert torch.equal(policy()(images, seeded(5)), by_hand(POLICIES[policy](), images, 5))


@pytest.mark.parametrize("policy, key, value, theirs", OPTIONS)
def test_options_reach_torchvision(policy, key, value, theirs):
    """Each option gives what torchvision gives with it, and that differs from the default."""
    images = photos(64)
    found = policy(**{key: value})(images, seeded(6))
    assert torch.equal(found, by_hand(POLICIES[policy](**{key: theirs}), images, 6))
    assert not torch.equal(found, policy()(images, seeded(6)))


def test_every_option_is_tried():
    """The table above names every option of every policy."""
    tried = {(policy, key) for policy, key, _, _ in OPTIONS}
    assert tried == {(policy, key) for policy in POLICIES for key in inspect.signature(policy).parameters}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_policies_refuse_other_channels(policy):
    """Colour operations are defined on 1 and 3 channels."""
    item = policy()
    assert item.check(context(item, channels=1)) is None and item.check(context(item, channels=3)) is None
    assert item.check(context(item, channels=2)) == (
        "augmentation.torchvision: works on 1 or 3 channels, not on 2; leave it out"
    )


@pytest.mark.parametrize(
    "words, line",
    [
        ("randaugment.magnitude=31", "magnitude=31: must be below augmentation.randaugment.num_magnitude_bins=31"),
        ("randaugment.num_ops=0", "num_ops=0: must be at least 1"),
        ("randaugment.num_magnitude_bins=1", "num_magnitude_bins=1: must be at least 2"),
        ("trivialaugment.num_magnitude_bins=1", "num_magnitude_bins=1: must be at least 2"),
        ("trivialaugment.fill=256", "fill=256: must be at most 255"),
        ("trivialaugment.interpolation=cubic", "interpolation=cubic: must be 'nearest' or 'bilinear'"),
        ("autoaugment.policy=cifar", "policy=cifar: must be 'imagenet', 'cifar10' or 'svhn'"),
        ("augmix.severity=11", "severity=11: must be at most 10"),
        ("augmix.mixture_width=0", "mixture_width=0: must be at least 1"),
        ("augmix.alpha=0", "alpha=0: must be above 0"),
        ("augmix.chain_depth=0", "chain_depth=0: must be at least 1, or -1 (drawn)"),
        ("augmix.chain_depth=-2", "chain_depth=-2: must be at least 1, or -1 (drawn)"),
    ],
)
def test_policies_refuse_values_out_of_range(words, line):
    """A value out of its range is refused before anything runs, with the range."""
    name = words.partition(".")[0]
    with pytest.raises(ConfigError) as refused:
        Resources().stack(check(composed(f"augmentation=[{name}]", f"augmentation.{words}")), "augmentation")
    assert str(refused.value) == f"augmentation.{name}.{line}"


# -- any transform by name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, theirs",
    [
        ("RandomPerspective", {"distortion_scale": 0.3}, v2.RandomPerspective(0.3)),
        ("RandomAffine", {"degrees": 20, "translate": [0.1, 0.1]}, v2.RandomAffine(20, (0.1, 0.1))),
        ("RandomRotation", {"degrees": 45, "interpolation": "bilinear"}, v2.RandomRotation(45, BILINEAR)),
        ("RandomSolarize", {"threshold": 100}, v2.RandomSolarize(100)),
        ("GaussianNoise", {"sigma": 0.2}, v2.GaussianNoise(sigma=0.2)),
        ("RandomChannelPermutation", {}, v2.RandomChannelPermutation()),
    ],
)
def test_any_transform_by_name(name, options, theirs):
    """Values are torchvision's, with its own arguments; the transform works where its pipeline is rehearsed."""
    images, item = photos(), TorchvisionTransform(name, **options)
    found = item(images, seeded(8))
    assert torch.equal(found, by_hand(theirs, images, 8)) and not torch.equal(found, images)
    with torch.device("meta"):  # as a rehearsal has it
        preflighted = TorchvisionTransform(name, **options)
        assert preflighted.check(context(preflighted)) is None


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("RandomPerspectiv", {}, r"name=RandomPerspectiv: is no transform of .*; did you mean 'RandomPerspective'\?"),
        ("InterpolationMode", {}, "name=InterpolationMode: is no transform of torchvision.transforms.v2"),
        ("ToTensor", {}, "name=ToTensor: does nothing to an image; choose another"),
        ("Lambda", {}, "name=Lambda: does nothing to an image"),
        ("ClampBoundingBoxes", {}, "name=ClampBoundingBoxes: does nothing to an image"),
        ("RandomRotation", {}, r"name=RandomRotation: needs '\+augmentation.torchvision.degrees=VALUE'"),
        ("RandomInvert", {"P": 1}, r"P: no such key; RandomInvert has p"),
        ("RandomPerspective", {"distortion": 1}, r"has distortion_scale, p, .*; did you mean 'distortion_scale'\?"),
        ("RandomInvert", {"p": 3}, r"name=RandomInvert: refuses its arguments \(`p` should be a floating point"),
        ("RandomRotation", {"degrees": "far"}, "name=RandomRotation: refuses its arguments"),
        ("RandomPerspective", {"interpolation": "linear"}, "refuses its arguments .'linear' is not a valid Interpol"),
    ],
)
def test_names_and_arguments_are_refused(name, options, line):
    """What torchvision does not have, or does not take, is refused in one line with the way out."""
    with pytest.raises(ConfigError, match=rf"^augmentation\.torchvision\.[^\n]*{line}[^\n]*$"):
        TorchvisionTransform(name, **options)


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("MixUp", {}, "cannot be called on an image of 16x16 pixels (labels should be index based"),
        ("Compose", {"transforms": ["RandomInvert"]}, "cannot be called on an image of 16x16 pixels ('str' object"),
        ("FiveCrop", {"size": 16}, "gives tuple, not an image of bytes; choose a transform from one image to another"),
        ("ToImage", {}, "gives Image, not an image of bytes"),
        ("ConvertImageDtype", {}, "gives torch.float32, not an image of bytes"),
        ("Grayscale", {}, "gives 1 channels of 3; choose a transform that keeps them"),
        ("RandomCrop", {"size": 12}, "gives 12x12 pixels, less than the 16x16 that enter the network; cut off less"),
        ("RandomZoomOut", {}, "gives images of several sizes, which make no batch; choose a transform that keeps"),
        ("RandomCrop", {"size": 20}, "cannot be called on an image of 16x16 pixels (Required crop size"),
    ],
)
def test_what_makes_no_batch_is_refused(name, options, line):
    """A transform is tried before training: its results must be images that make a batch for the network."""
    item = TorchvisionTransform(name, **options)
    said = item.check(context(item))
    assert said.startswith(f"augmentation.torchvision.name={name}: {line}") and "\n" not in said


def test_it_is_tried_where_it_stands():
    """What the items before it make is what it is tried on, whether bytes or floats."""
    pad, crop = TorchvisionTransform("Pad", padding=4), TorchvisionTransform("RandomCrop", size=20)
    assert crop.check(context(crop, pad=pad)) is None
    assert "Required crop size" in crop.check(context(crop, pad=Flip()))
    assert crop.check(context(crop, stored=24)) is None
    seen = []

    class Halves(Flip):
        def __call__(self, images, generator):
            seen.append(images.shape)
            return images / 255

    assert crop.check(context(crop, pad=pad, halves=Halves())) is None
    assert seen == [(TRIED, 3, 24, 24)]


def test_it_is_quiet_where_an_earlier_item_complains():
    """An item that cannot work speaks for itself; what it would give is not known."""
    config = composed("augmentation=[crop,torchvision]", "augmentation.torchvision.name=FiveCrop", "data.limit=200")
    config["augmentation"]["torchvision"]["size"] = 8
    config["augmentation"]["crop"]["padding"] = 9
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(config))
    (line,) = refused.value.lines
    assert line.startswith("augmentation.crop.padding=9")


def test_two_transforms_by_name_in_one_pipeline():
    """Hydra puts a second one under a key of its own, at the end; both are checked, and named by their keys."""
    words = ("augmentation=[torchvision,flip]", "augmentation.torchvision.name=RandomInvert", "data.limit=200")
    words += ("+augmentation@augmentation.second=torchvision", "augmentation.second.name=RandomEqualize")
    config = check(composed(*words))
    assert list(config["augmentation"]) == ["torchvision", "flip", "second"]
    assert [item.name for item in Resources().stack(config, "augmentation").values() if not isinstance(item, Flip)] == [
        "RandomInvert",
        "RandomEqualize",
    ]
    config["augmentation"]["second"]["name"] = "TenCrop"
    config["augmentation"]["second"]["size"] = 8
    with pytest.raises(Refused, match="^augmentation.second.name=TenCrop: gives tuple"):
        Resources().preflight(config)


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment", "autoaugment", "augmix", "torchvision"])
def test_items_pass_the_rehearsal(name):
    """On the default data, which are grey, every item is accepted."""
    words = ["data.limit=200", f"augmentation=[{name}]"]
    words += ["augmentation.torchvision.name=RandomEqualize"] if name == "torchvision" else []
    Resources().preflight(check(composed(*words)))


# -- presets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed, items",
    [
        ("cifar", ["crop", "flip"]),
        ("[cifar]", ["crop", "flip"]),
        ("[cifar,cutout]", ["crop", "flip", "cutout"]),
        ("[cutout,cifar]", ["cutout", "crop", "flip"]),
        ("imagenet", ["resized_crop", "flip"]),
        ("none", []),
        ("[none,flip]", ["flip"]),
    ],
)
def test_presets_are_their_items_in_order(typed, items):
    """A preset stands for a list, at its place in the pipeline, with the items' own keys and defaults."""
    config = check(composed(f"augmentation={typed}"))
    assert list(config["augmentation"]) == items
    plain = check(composed(f"augmentation=[{','.join(items)}]"))
    assert fingerprints(config, "", frozenset()) == fingerprints(plain, "", frozenset())


def test_presets_leave_their_items_keys_to_the_user():
    """A key of an item that a preset brought is typed as ever; so the runs differ."""
    config = check(composed("augmentation=cifar", "augmentation.flip.p=0.1"))
    assert config["augmentation"]["flip"]["p"] == 0.1
    assert fingerprints(config, "", frozenset()) != fingerprints(check(composed("augmentation=cifar")), "", frozenset())


def test_no_regularization():
    """`regularization=none` is the empty stack."""
    assert composed("regularization=none")["regularization"] == {}


@pytest.mark.parametrize(
    "typed, line",
    [
        ("[cifar,flip]", "'flip' is listed twice (cifar is crop, flip)"),
        ("[crop,cifar]", "'crop' is listed twice (cifar is crop, flip)"),
        ("[cifar,cifar]", "'cifar' is listed twice (cifar is crop, flip)"),
        ("[cifar,imagenet]", "'flip' is listed twice (cifar is crop, flip; imagenet is resized_crop, flip)"),
        ("[flip,flip]", "'flip' is listed twice"),
    ],
)
def test_an_item_that_a_preset_brings_is_there_once(typed, line, cli, tmp_path):
    """Hydra would silently keep one of two."""
    code, _, err = cli(f"augmentation={typed}")
    assert (code, err) == (2, f"runner: augmentation={typed}: {line}; an item can be there once\n")
    assert not (tmp_path / "outputs").exists()
