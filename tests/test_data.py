"""Data: the embedded digits, cutting into splits, statistics, batches."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.data import digits
from runner.data.prepare import prepare
from runner.data.splits import ResidentSplit, Source
from runner.errors import ConfigError

ROOT = Path(__file__).parents[1]


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
