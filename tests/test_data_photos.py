"""Data: folders of photos, how they are decoded, remembered and streamed."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.data import cache, decode, photos
from runner.data.image_folder import load
from runner.data.prepare import prepare
from runner.data.stream import worker_count
from runner.errors import ConfigError

FLOWERS = Path(__file__).parents[2] / "shared" / "data" / "flowers"
# Python 3.12 and later warn of a fork beside torch's threads; a loader's workers use none of them.
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def photo(path, seed, size=(20, 14)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def folder(root, **parts):
    """`train=3`: three photos in each of the classes a and b of root/train."""
    seed = 0
    for part, count in parts.items():
        for name in "ab":
            for index in range(count):
                photo(root / part / name / f"{index}.png", seed)
                seed += 1
    return str(root)


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED_NS", 0)  # else photos made this very second are read again
    return {"resize": 8, "size": 6, "cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def root(tmp_path):
    return folder(tmp_path / "photos", train=5, val=2)


def content(split):
    return [
        (images.tolist(), labels.tolist())
        for images, labels in split.batches(torch.arange(len(split)).split(3))
    ]


@pytest.mark.parametrize("size", [(31, 20), (20, 31), (9, 9), (5, 40), (200, 133)])
def test_decode(tmp_path, size):
    """A photo is scaled and cut as torchvision does with Resize and CenterCrop."""
    transforms = pytest.importorskip("torchvision.transforms")
    photo(tmp_path / "x.png", 0, size)
    reference = transforms.Compose(
        [transforms.Resize(12), transforms.CenterCrop(12), transforms.PILToTensor()]
    )
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


def test_cache_is_used(root, keys, monkeypatch):
    """The second time no photo is decoded, nor even read; a changed one is noticed."""
    first = load(root, **keys)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "in_order", None)
        read = []
        hashed = decode.content_hash
        patch.setattr(decode, "content_hash", lambda path: read.append(Path(path).name) or hashed(path))
        assert content(load(root, **keys).train) == content(first.train)
        assert [name for name in read if not name.endswith(".npy")] == []
    photo(Path(root) / "train" / "a" / "0.png", 99, (16, 16))
    changed = load(root, **keys)
    assert content(changed.train) != content(first.train)
    assert content(changed.test) == content(first.test)


@pytest.mark.parametrize("kind", ["photos-*.npy", "photos-*.json", "files-*.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_cache(root, keys, caplog, kind, damage):
    """A damaged file of the cache is made again, with a warning, and never used."""
    first = content(load(root, **keys).train)
    (file,) = Path(keys["cache_dir"]).glob(kind)
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    file.write_bytes({"flip": bytes(changed), "cut": whole[: len(whole) // 2], "remove": b""}[damage])
    if damage == "remove":
        file.unlink()
    assert content(load(root, **keys).train) == first
    assert file.read_bytes() == whole
    assert ("making it again" in caplog.text) == (damage != "remove" or kind.endswith("npy"))


def test_unwritable_cache(root, keys, tmp_path, caplog):
    """Where the cache cannot be written the photos are decoded into memory, with a warning."""
    (tmp_path / "file").touch()
    loaded = load(root, **keys | {"cache_dir": str(tmp_path / "file" / "cache")})
    assert "cannot be written" in caplog.text
    assert content(loaded.train) == content(load(root, **keys).train)


def test_full_disk(root, keys, caplog, monkeypatch):
    """A disk that runs full while the cache is written ends in memory, with a warning."""
    expected = content(load(root, **keys | {"cache_dir": f"{root}/../other"}).train)

    def full(path, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_atomic", full)
    assert content(load(root, **keys).train) == expected
    assert "No space left" in caplog.text


def test_two_processes_at_once(root, keys):
    """Two processes that build the same cache at the same time both succeed and leave one whole cache."""
    code = f"from runner.data.image_folder import load; print(load({root!r}, **{keys!r}).train.images.sum().item())"
    start = {"stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[1]}
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code], **start) for _ in range(2)]
    said = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert said == {f"{load(root, **keys).train.images.sum()}\n"}
    assert len(list(Path(keys["cache_dir"]).glob("photos-*"))) == 2
    assert list(Path(keys["cache_dir"]).glob(".*")) == []  # no temporary file is left


def test_no_warning_and_no_writing_back(root, keys):
    """Mapped pixels can be written to in memory without a warning, and the file stays as it was."""
    loaded = load(root, **keys)
    (store,) = Path(keys["cache_dir"]).glob("*.npy")
    before = store.read_bytes()
    loaded.train._images.zero_()
    assert store.read_bytes() == before


@forking
@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_equals_resident(root, keys, workers):
    """Streamed photos give the same bits, statistics and identity as resident ones, and draw nothing from torch."""
    resident = prepare(load(root, **keys), val_fraction=0.2)
    state = torch.get_rng_state()
    streamed = prepare(load(root, **keys, resident=False, workers=workers), val_fraction=0.2)
    assert content(streamed.train) == content(resident.train)
    assert content(streamed.val) == content(resident.val)
    assert torch.equal(streamed.mean, resident.mean)
    assert torch.equal(streamed.std, resident.std)
    assert streamed.identity == resident.identity
    assert torch.equal(state, torch.get_rng_state())


@forking
@pytest.mark.parametrize("workers", [0, 1])
def test_vanished_photo(root, keys, workers):
    """A photo that vanishes while it is streamed is named."""
    split = load(root, **keys, resident=False, workers=workers).train
    (Path(root) / "train" / "b" / "1.png").unlink()
    with pytest.raises(OSError, match=r"train/b/1.png': No such file"):
        content(split)


@forking
def test_parallel_decoding(root, keys, tmp_path, monkeypatch):
    """Many photos are decoded in worker processes, to the same pixels."""
    alone = content(load(root, **keys).train)
    monkeypatch.setattr(cache, "IN_PROCESS", 1)
    monkeypatch.setattr(cache, "TASK", 3)
    assert content(load(root, **keys | {"cache_dir": str(tmp_path / "other"), "workers": 1}).train) == alone


def test_budget(root, keys):
    """resident=auto streams what does not fit the budget, resident=true keeps it all the same."""
    needed = 14 * 3 * 8 * 8 / 1e9
    names = [
        type(load(root, **keys, budget_gb=budget, resident=resident).train).__name__
        for budget, resident in (
            (needed, "auto"),
            (needed * 0.99, "auto"),
            (needed * 0.99, True),
            (None, "auto"),
        )
    ]
    assert names == ["ResidentSplit", "StreamedSplit", "ResidentSplit", "ResidentSplit"]
    assert photos.available_memory() > 1e6
    assert worker_count(3) == 3
    assert worker_count("auto") != 1


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
