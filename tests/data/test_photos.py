"""Data: folders of photos and how they are decoded."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runner.core.errors import ConfigError
from runner.data import decode
from runner.data.image_folder import load
from runner.data.prepare import prepare
from tests.shared.data_sets import content, folder, photo
from tests.shared.paths import ROOT

FLOWERS = ROOT.parent / "shared" / "data" / "flowers"


@pytest.mark.parametrize("size", [(31, 20), (20, 31), (9, 9), (5, 40), (200, 133)])
def test_decode(tmp_path, size):
    """A photo is scaled and cut as torchvision does with Resize and CenterCrop."""
    transforms = pytest.importorskip("torchvision.transforms")
    photo(tmp_path / "x.png", 0, size)
    reference = transforms.Compose([transforms.Resize(12), transforms.CenterCrop(12), transforms.PILToTensor()])
    found = decode.decode(str(tmp_path / "x.png"), 12)
    assert np.array_equal(found, reference(Image.open(tmp_path / "x.png")).numpy())
    assert decode.moments(found).tolist() == [
        [int(plane.sum(dtype=int)), int((plane.astype(int) ** 2).sum())] for plane in found
    ]


def test_decode_modes(tmp_path):
    """Grey, 16 bits, palettes with transparency and turned photos all come out as upright RGB."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    palette = Image.fromarray(np.stack([grey] * 3, 2)).quantize(64)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(64)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(grey)).save(tmp_path / "turned.png", exif=exif)
    for name in ("grey", "deep", "palette", "turned"):
        found = decode.decode(str(tmp_path / f"{name}.png"), 8)
        np.testing.assert_array_equal(found, np.stack([grey] * 3), err_msg=name)


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 5, "val": 2}, (10, None, 4)),
        ({"train": 5, "test": 2}, (10, None, 4)),
        ({"train": 5, "valid": 3, "test": 2}, (10, 6, 4)),
        ({"train": 10}, (16, None, 4)),
        ({".": 10}, (16, None, 4)),
    ],
)
def test_layouts(tmp_path, keys, parts, sizes):
    """A second folder is the test split, three are what they say, a missing test split is cut off."""
    loaded = load(folder(tmp_path / "photos", **parts), **keys)
    assert (len(loaded.train), loaded.val and len(loaded.val), len(loaded.test)) == sizes
    assert loaded.classes == ("a", "b")
    assert loaded.test.labels.bincount().tolist() == [sizes[2] // 2] * 2
    assert loaded.train.images.shape[1:] == (3, 8, 8)
    assert prepare(loaded).size == 6


def test_cut_is_the_same_everywhere(tmp_path, keys):
    """The identity and the test split that is cut off depend on the photos alone, not on where they lie."""
    first = load(folder(tmp_path / "one", train=10), **keys)
    second = load(folder(tmp_path / "two", train=10), **keys | {"cache_dir": str(tmp_path / "other")})
    smaller = load(str(tmp_path / "two"), **keys | {"resize": 7})
    assert content(first.test) == content(second.test)
    assert first.identity == second.identity == smaller.identity
    photo(tmp_path / "two" / "train" / "a" / "0.png", 99)
    assert load(str(tmp_path / "two"), **keys).identity != first.identity


@pytest.mark.parametrize("resident", [True, False])
def test_corrupt_photos(root, keys, caplog, resident):
    """Corrupt photos are an error that names them, or skipped, reported, and absent from every split."""
    whole = Path(root) / "train" / "a" / "0.png"
    (Path(root) / "train" / "b" / "4.png").write_bytes(whole.read_bytes()[:60])
    (Path(root) / "val" / "a" / "0.png").write_text("no image")
    for _ in range(2):  # the second time by what the cache knows
        with pytest.raises(ConfigError) as caught:
            load(root, **keys, resident=resident)
        for word in ("2 images", "'train/b/4.png'", "'val/a/0.png'", "data.on_corrupt=skip"):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        loaded = load(root, **keys, resident=resident, on_corrupt="skip")
    assert loaded.skipped == prepare(loaded).skipped == ("train/b/4.png", "val/a/0.png")
    assert "2 of 14 images" in caplog.text
    assert loaded.train.labels.tolist() == [0] * 5 + [1] * 4
    assert content(loaded.train)[0][0][0] == decode.decode(str(whole), 8).tolist()


def empty_class(root):
    shutil.rmtree(root / "train" / "b")
    (root / "train" / "b").mkdir()
    (root / "train" / "b" / "notes.txt").touch()


def nothing(root):
    shutil.rmtree(root)
    (root / "train" / "a").mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (empty_class, ["train/b' has no images"]),
        (nothing, ["no images in 'train'"]),
        (lambda root: shutil.rmtree(root), ["no such folder", "train/CLASS"]),
        (lambda root: shutil.rmtree(root / "val" / "b"), ["'val'", "lacks b"]),
        (lambda root: (root / "train" / "b").rename(root / "train" / "c"), ["lacks c", "also has b"]),
        (lambda root: shutil.rmtree(root / "train"), ["'val' but no 'train'"]),
        (
            lambda root: [(root / n).rename(root / f"{n}ing") for n in ("train", "val")],
            ["training, valing hold only"],
        ),
        (lambda root: [shutil.rmtree(root / n) for n in ("train", "val")], ["no class folders"]),
    ],
)
def test_wrong_folders(root, keys, change, words):
    """What is wrong with a folder is one line that names the place."""
    change(Path(root))
    with pytest.raises(ConfigError) as caught:
        load(root, **keys)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_wrong_values(tmp_path, keys):
    """size beyond resize, a class too small to be cut, and a fraction that is none are refused."""
    root = folder(tmp_path / "photos", train=1)
    for changes, words in (
        ({"size": 9}, "data.size=9 is larger than data.resize=8"),
        ({}, "class 'a' has one image"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(root, **keys | changes)
    with pytest.raises(ConfigError, match="data.root is missing"):
        load(None, **keys)


@pytest.mark.skipif(not FLOWERS.exists(), reason="../shared/data/flowers is not there")
def test_real_photos(keys):
    """Real photos of flowers come in five classes, 40 for training and 30 for testing each."""
    splits = prepare(load(str(FLOWERS), **keys | {"resize": 72, "size": 64}))
    assert (len(splits.train), len(splits.val), len(splits.test), len(splits.classes)) == (180, 20, 150, 5)
