"""Data: the YAML files, and torchvision's sets in their own formats on disk."""

import inspect
import json
import pickle
import urllib.error

import numpy as np
import pytest
from PIL import Image

from runner.core.errors import ConfigError
from tests.shared.data_sets import CONF, mnist, own_keys

YAMLS = sorted(CONF.glob("*.yaml"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_yaml_binds(path):
    """Every data YAML names a function that takes its keys."""
    load, keys = own_keys(path.stem)
    inspect.signature(load).bind(**{"root": "x"} | keys if path.stem != "digits" else keys)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_idx_files(tmp_path, name, folder):
    """MNIST and its kin are read from their own files."""
    raw = mnist(tmp_path, folder)
    load, keys = own_keys(name)
    loaded = load(root=str(tmp_path), **keys)
    assert (len(loaded.train), len(loaded.test), len(loaded.classes)) == (20, 10, 10)
    pixels = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(20, 1, 28, 28)
    assert np.array_equal(loaded.train.images.numpy(), pixels)


def test_missing_set_leaves_no_folder(tmp_path):
    """A set that is not there is named with the way to fetch it, and no folder is made."""
    load, keys = own_keys("mnist")
    with pytest.raises(ConfigError, match="MNIST/raw.*data.download=true"):
        load(root=str(tmp_path / "nowhere"), **keys)
    with pytest.raises(ConfigError, match="data.root is missing"):
        load(root=None, **keys)
    assert list(tmp_path.iterdir()) == []


def test_failed_download(tmp_path, monkeypatch):
    """A download that fails is one line with the reason."""
    import torchvision

    def fail(self):
        raise urllib.error.URLError("no\nnetwork")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    load, keys = own_keys("mnist")
    with pytest.raises(ConfigError, match=r"fetching or reading MNIST failed: .*no network"):
        load(root=str(tmp_path), download=True, **keys)


def test_missing_package(tmp_path, monkeypatch):
    """A set whose reader needs a package that is not installed names the package."""
    import torchvision

    def need(**_):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    load, keys = own_keys("svhn")
    (tmp_path / keys["files"]).touch()
    monkeypatch.setattr(torchvision.datasets, "SVHN", need)
    with pytest.raises(ConfigError, match="SVHN needs the package 'scipy'.*pip install scipy"):
        load(root=str(tmp_path), **keys)


def test_damaged_set(tmp_path):
    """A truncated file of a set is one line."""
    raw = mnist(tmp_path)
    (raw / "t10k-images-idx3-ubyte").write_bytes((raw / "t10k-images-idx3-ubyte").read_bytes()[:100])
    load, keys = own_keys("mnist")
    with pytest.raises(ConfigError, match="reading MNIST failed"):
        load(root=str(tmp_path), **keys)


@pytest.mark.parametrize(
    ("name", "key", "classes"), [("cifar10", "label_names", 10), ("cifar100", "fine_label_names", 100)]
)
def test_cifar_files(tmp_path, monkeypatch, name, key, classes):
    """CIFAR is read from its own pickles, with its classes' names (made-up files pass no checksum)."""
    import torchvision

    load, keys = own_keys(name)
    folder = tmp_path / keys["files"]
    folder.mkdir()
    cifar = getattr(torchvision.datasets, keys["dataset"])
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    random = np.random.default_rng(0)
    label_key = "labels" if name == "cifar10" else "fine_labels"
    for file, _ in cifar.train_list + cifar.test_list:
        content = {"data": random.integers(0, 256, (5, 3072), dtype=np.uint8), label_key: [0, 1, 2, 3, 4]}
        (folder / file).write_bytes(pickle.dumps(content))
    names = [f"name {index}" for index in range(classes)]
    (folder / cifar.meta["filename"]).write_bytes(pickle.dumps({key: names}))
    loaded = load(root=str(tmp_path), **keys)
    assert loaded.classes == tuple(names)
    assert (len(loaded.train), loaded.train.shape) == (5 * len(cifar.train_list), (3, 32, 32))
    assert np.array_equal(loaded.test.images.numpy().reshape(5, -1), content["data"])


@pytest.mark.parametrize(("name", "side"), [("svhn", 32), ("stl10", 96)])
def test_channels_first_sets(tmp_path, monkeypatch, name, side):
    """SVHN and STL-10, whose arrays are [N, C, H, W] with `labels`, keep their pixels in place."""
    import torchvision

    class Fake:
        def __init__(self, root, split, download):
            count = {"train": 20, "test": 10}[split]
            self.data = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
            self.labels = np.arange(count) % 10

    load, keys = own_keys(name)
    (tmp_path / keys["files"]).touch()
    monkeypatch.setattr(torchvision.datasets, keys["dataset"], Fake)
    loaded = load(root=str(tmp_path), **keys)
    assert np.array_equal(loaded.train.images.numpy(), Fake(None, "train", False).data)
    assert loaded.test.labels.tolist() == list(range(10))


def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def food101(root):
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for part, count in (("train", 3), ("test", 2)):
        files = {name: [f"{name}/{part}{index}" for index in range(count)] for name in ("pie", "soup")}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(files))
        for seed, file in enumerate(sum(files.values(), [])):
            photo(folder / "images" / f"{file}.jpg", seed)


def oxford_pets(root):
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, count in (("trainval", 3), ("test", 2)):
        names = [
            (f"{name}_{part}{index}", label) for label, name in ((1, "Pie"), (2, "Soup")) for index in range(count)
        ]
        (folder / "annotations" / f"{part}.txt").write_text("".join(f"{name} {label} 1 1\n" for name, label in names))
        for seed, (name, _) in enumerate(names):
            photo(folder / "images" / f"{name}.jpg", seed)


@pytest.mark.parametrize("make", [food101, oxford_pets])
def test_photo_sets(tmp_path, make):
    """Food-101 and Pets are found by torchvision's classes; a missing set is named."""
    load, keys = own_keys(make.__name__)
    with pytest.raises(ConfigError, match="data.download=true"):
        load(root=str(tmp_path), **keys)
    make(tmp_path)
    loaded = load(root=str(tmp_path), resize=8, size=8, cache_dir=str(tmp_path / "cache"), **keys)
    assert [name.lower() for name in loaded.classes] == ["pie", "soup"]
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.test.images.shape == (4, 3, 8, 8)
