"""Data: the embedded digits, cutting into splits, statistics, batches."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.core.errors import ConfigError
from runner.data import digits
from runner.data.prepare import prepare
from runner.data.splits import ResidentSplit, Source
from tests.shared.paths import ROOT
from tests.shared.results import result_of


def numbered(counts, side=2):
    """A split in which image i of the whole has the pixels i, so that images can be told apart."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, side, side)
    return ResidentSplit(images.contiguous(), labels)


def source(train=(20, 10), val=None, test=(3, 3), classes=("cat", "dog", "eel")):
    splits = numbered(train), None if val is None else numbered(val), numbered(test)
    return Source(*splits, classes[: len(train)], "0" * 64, 2)


def ids(split):
    return split.images[:, 0, 0, 0].tolist()


def test_digits():
    """The digits are 1,797 images of ten classes in 0..255, a fifth of each class for testing."""
    loaded = digits.load()
    assert (len(loaded.train), len(loaded.test), len(loaded.classes)) == (1438, 359, 10)
    assert loaded.train.images.shape[1:] == (1, 8, 8)
    assert (int(loaded.train.images.min()), int(loaded.train.images.max())) == (0, 255)
    both = loaded.train.labels.bincount() + loaded.test.labels.bincount()
    assert torch.equal(loaded.test.labels.bincount(), (both * 0.2).round().long())


def test_digits_need_no_torchvision():
    """The embedded data set starts without torchvision, which takes seconds to import."""
    code = "import sys, runner.data.digits as d; d.load(); sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_script_makes_the_digits():
    """scripts/make_digits.py gives the arrays that are shipped."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    loaded, shipped = datasets.load_digits(), np.load(ROOT / "runner" / "data" / "digits.npz")
    test = runpy.run_path(str(ROOT / "scripts" / "make_digits.py"))["split"](loaded.target)
    images = np.rint(loaded.images * 255 / 16)
    for part, rows in (("train", ~test), ("test", test)):
        assert np.array_equal(shipped[f"x_{part}"], images[rows])
        assert np.array_equal(shipped[f"y_{part}"], loaded.target[rows])


def test_validation_is_a_stratified_part_of_training():
    """Training and validation are disjoint, complete, stratified; the test split stays whole."""
    splits = prepare(source((40, 20)), val_fraction=0.2)
    assert sorted(ids(splits.train) + ids(splits.val)) == list(range(60))
    assert splits.val.labels.bincount().tolist() == [8, 4]
    assert ids(splits.test) == list(range(6))


def test_split_seed_decides():
    """The same split_seed gives the same cut, another seed another one, torch's own stream is left alone."""
    state = torch.get_rng_state()
    first, again, other = (ids(prepare(source((40, 20)), split_seed=seed).val) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_no_validation():
    """val_fraction=0 gives no validation split."""
    splits = prepare(source(), val_fraction=0)
    assert splits.val is None
    assert len(splits.train) == 30


@pytest.mark.parametrize("limit", [2, 3, 7, 20, 29, 30, 1000])
def test_limit(limit):
    """limit caps training and validation together, shared out by the classes' sizes, at least one each."""
    splits = prepare(source((20, 10)), limit=limit, val_fraction=0)
    counts = splits.train.labels.bincount().tolist()
    assert sum(counts) == min(limit, 30)
    assert abs(counts[0] - min(limit, 30) * 2 / 3) < 1
    assert min(counts) >= 1
    assert len(splits.test) == 6


def test_limit_keeps_rare_classes():
    """A class that is too rare for a share of the limit still gets one image."""
    splits = prepare(source((100, 1, 2)), limit=4, val_fraction=0)
    assert splits.train.labels.bincount().tolist() == [2, 1, 1]


def test_limit_then_validation():
    """Validation is cut from the limited images, not from those left out."""
    splits = prepare(source((40, 40)), limit=20, val_fraction=0.2)
    assert (len(splits.train), len(splits.val)) == (16, 4)
    assert set(ids(splits.train)).isdisjoint(ids(splits.val))


def test_per_class_grows():
    """per_class keeps that many of each class, and the fewer are among the more."""
    few, more = (prepare(source((20, 10)), per_class=k, val_fraction=0).train for k in (3, 6))
    assert few.labels.bincount().tolist() == [3, 3]
    assert set(ids(few)) < set(ids(more))


def test_sources_own_validation():
    """A source's own validation split is kept, and limited together with training."""
    own = source((20, 10), val=(10, 5))
    assert (len(prepare(own).train), len(prepare(own).val)) == (30, 15)
    drawn = prepare(own, per_class=3)
    assert drawn.train.labels.bincount().tolist() == drawn.val.labels.bincount().mul(2).tolist() == [2, 2]


def test_classes_are_relabelled_everywhere():
    """data.classes keeps classes by name or index, relabelled in the order given, in all splits."""
    whole = source((9, 8, 7), val=(2, 3, 4), test=(1, 2, 3))
    splits = prepare(whole, classes=["eel", 0])
    assert splits.classes == ("eel", "cat")
    assert [split.labels.bincount().tolist() for split in (splits.train, splits.val, splits.test)] == [
        [7, 9],
        [4, 2],
        [3, 1],
    ]
    assert ids(splits.test) == [0, 3, 4, 5]


NUMBERS = tuple(sorted(str(number) for number in range(1, 13)))  # 1, 10, 11, 12, 2, ...: as folders are sorted


@pytest.mark.parametrize(
    ("wanted", "classes", "expected"),
    [
        ([2, 3], NUMBERS, ("2", "3")),
        (["2", "3"], NUMBERS, ("2", "3")),
        (["02", 3.0], NUMBERS, ("2", "3")),
        ([12, 1], NUMBERS, ("12", "1")),
        ([2, "03"], ("01", "02", "03"), ("02", "03")),
        ([2, "02"], ("02", "1", "2"), ("2", "02")),
        ([1.5, 2], ("0.5", "1.50", "2"), ("1.50", "2")),
        ([747, "dog"], ("380", "747", "dog"), ("747", "dog")),
        ([1, 0], tuple(map(str, range(10))), ("1", "0")),
        ([1, 0], ("0 - zero", "1 - one", "2 - two"), ("1 - one", "0 - zero")),
        ([2, "1_0"], ("1_0", "cat", "nan"), ("nan", "1_0")),
        ([-1, 1], ("-1", "1"), ("-1", "1")),
    ],
)
def test_a_number_that_names_a_class_is_its_name(wanted, classes, expected):
    """The name wins over the index, also where it is written with zeros; among words a number is an index."""
    whole = source((4,) * len(classes), test=(2,) * len(classes), classes=classes)
    splits = prepare(whole, val_fraction=0, classes=wanted)
    assert splits.classes == expected
    for label, name in enumerate(expected):
        images = splits.test.images[splits.test.labels == label]
        assert torch.equal(images, whole.test.images[whole.test.labels == classes.index(name)]) and len(images) == 2


@pytest.mark.parametrize(
    ("wanted", "classes", "line"),
    [
        (
            [0, 1],
            NUMBERS,
            "data.classes: no class '0'; did you mean '10'? (there are 1, 10, 11, 12, 2, 3, 4, 5, 6, 7, ...)",
        ),
        ([8, 9], ("010", "011"), "data.classes: no class '8' (there are 010, 011)"),
        ([4, 1], ("380", "747", "dog"), "data.classes: no class '4' (there are 380, 747, dog)"),
        ([2, 1], ("002", "02", "1"), "data.classes: 2 is the number of '002', '02'; write the name that you mean in"),
        (["2", "02"], ("1", "2"), "data.classes: '02' is there twice; name each class once"),
        (["1", "2"], ("a", "b", "c"), "data.classes: no class '1' (there are 0 to 2, or a, b, c)"),
        ([1.5, 0], ("a", "b", "c"), "data.classes: no class '1.5' (there are 0 to 2, or a, b, c)"),
    ],
)
def test_a_number_that_names_no_class_is_refused(wanted, classes, line):
    """Never an index where it could have been a name; one line."""
    with pytest.raises(ConfigError) as caught:
        prepare(source((4,) * len(classes), test=(2,) * len(classes), classes=classes), classes=wanted)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize("typed", ["[2,3]", "[02,03]", "['2','3']"])
def test_folders_with_numbers_for_names(cli, typed):
    """Typed as a user types it: the folders 2 and 3 of 1 to 12 train, and the result names them."""
    draws = np.random.default_rng(0)
    for name in range(1, 13):
        for part, count in (("train", 6), ("val", 2)):
            folder = Path("photos", part, str(name))
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draws.integers(0, 255, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
    words = ("data=image_folder", "data.root=photos", "data.resize=8", "data.size=8", "model=mlp", "epochs=1")
    code, _, err = cli(*words, f"data.classes={typed}", "batch_size=4", "log.tensorboard=false", "name=numbers")
    assert (code, err) == (0, "")
    assert result_of(Path("outputs/numbers"))["data"]["classes"] == ["2", "3"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"limit": 1}, ["limit=1", "2 classes"]),
        ({"per_class": 11}, ["per_class=11", "'dog' has 10"]),
        ({"limit": 5, "per_class": 2}, ["limit=5", "per_class=2"]),
        ({"classes": ["cot", "dog"]}, ["'cot'", "did you mean 'cat'"]),
        ({"classes": [0, 2]}, ["'2'", "0 to 1"]),
        ({"classes": [0, "cat"]}, ["'cat'", "twice"]),
        ({"classes": ["dog"]}, ["only one class", "dog"]),
        ({"classes": []}, ["data.classes=[]"]),
        ({"limit": 2}, ["val_fraction=0.1", "2 images of 2 classes"]),
    ],
)
def test_impossible_cuts(keys, words):
    """What cannot be cut is one line with the value and what is there."""
    with pytest.raises(ConfigError) as caught:
        prepare(source(), **keys)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_empty_parts():
    """A class without training images and a test split without any are refused."""
    with pytest.raises(ConfigError, match="class 'dog' has no training image"):
        prepare(source((5, 0, 5), test=(1, 1, 1)))
    with pytest.raises(ConfigError, match="test split has no image of dog, eel"):
        prepare(source((5, 5, 5), test=(3, 0, 0)), classes=[1, 2])


def test_statistics():
    """Mean and deviation are the training split's, in 0..1; a constant channel's deviation is not zero."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    images[:, 2] = 7
    split = ResidentSplit(torch.from_numpy(images), torch.arange(50) % 2)
    splits = prepare(Source(split, None, split, ("a", "b"), "", 4))
    kept = splits.train.images.numpy()[:, :2] / 255
    np.testing.assert_allclose(splits.mean[:2], kept.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(splits.std[:2], kept.std((0, 2, 3)), rtol=1e-6)
    assert splits.std[2] == pytest.approx(1 / 255)
    assert splits.channels == 3


def test_batches():
    """Batches are the images and labels at the rows asked for, before and after a selection is copied out."""
    split = numbered((6, 4)).select(torch.tensor([9, 3, 5, 0])).select(torch.tensor([0, 2, 3]))
    order = [torch.tensor([2, 0]), torch.tensor([1])]
    for _ in range(2):
        batches = [(images[:, 0, 0, 0].tolist(), labels.tolist()) for images, labels in split.batches(order)]
        assert batches == [([0, 9], [0, 1]), ([5], [0])]
        assert ids(split) == [9, 5, 0]
    assert len(split.to("cpu")) == len(split) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_a_gpu():
    """On a GPU the batches are there, and the same."""
    splits = prepare(source((20, 10)))
    order = torch.arange(8).view(2, 4)
    for here, there in zip(splits.train.batches(order), splits.to("cuda").train.batches(order), strict=True):
        assert there[0].device.type == there[1].device.type == "cuda"
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there))
