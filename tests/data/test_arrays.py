"""Data: a user's own arrays in an .npz file."""

import numpy as np
import pytest

from runner.core.errors import ConfigError
from runner.data import arrays


def npz(path, **changes):
    random = np.random.default_rng(0)
    content = {
        "x_train": random.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": random.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
        "y_test": np.array([2, 1, 0], np.uint8),
    } | changes
    content = {key: value for key, value in content.items() if value is not None}
    np.savez(path, **content)
    return content


def test_arrays(tmp_path):
    """An .npz, or a folder with one, becomes [N, C, H, W] with its classes and its own validation split."""
    names = np.array(["a", "b", "c"])
    content = npz(tmp_path / "x.npz", x_val=np.zeros((2, 4, 4, 3), np.uint8), y_val=np.array([0, 1]), classes=names)
    loaded = arrays.load(str(tmp_path))
    assert np.array_equal(loaded.train.images.numpy(), content["x_train"].transpose(0, 3, 1, 2))
    assert loaded.test.labels.tolist() == [2, 1, 0]
    assert (len(loaded.val), loaded.classes, loaded.size) == (2, ("a", "b", "c"), 4)
    npz(tmp_path / "x.npz", x_train=np.zeros((6, 4, 4), np.uint8), x_test=np.zeros((3, 4, 4), np.uint8))
    assert arrays.load(str(tmp_path / "x.npz")).train.shape == (1, 4, 4)


def test_identity_of_arrays(tmp_path):
    """The identity follows pixels and labels, not the file's name."""
    content = npz(tmp_path / "a.npz")
    npz(tmp_path / "b.npz")
    npz(tmp_path / "pixel.npz", x_test=content["x_test"] ^ 1)
    npz(tmp_path / "label.npz", y_train=content["y_train"][::-1].copy())
    found = [arrays.load(str(tmp_path / f"{name}.npz")).identity for name in ("a", "b", "pixel", "label")]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def zeros(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, ["no y_test", "x_train y_train x_test y_test"]),
        ({"x_tset": zeros(3, 4, 4)}, ["unknown x_tset", "did you mean 'x_test'"]),
        ({"x_val": zeros(3, 4, 4, 3)}, ["no y_val"]),
        ({"x_train": zeros(6, 4, 4, 3, dtype=np.float32)}, ["x_train is float32", "uint8"]),
        ({"x_train": zeros(6, 16)}, ["[6, 16]", "[N, H, W, C]"]),
        ({"x_train": zeros(6, 3, 8, 8)}, ["[6, 3, 8, 8]", "channels first"]),
        ({"x_train": zeros(6, 4, 5, 3)}, ["4x5", "squares"]),
        ({"x_test": zeros(3, 8, 8, 3)}, ["test images are 8x8", "4x4"]),
        ({"x_test": zeros(3, 4, 4)}, ["1 channels", "3 channels"]),
        ({"x_train": zeros(5, 4, 4, 3)}, ["5 images and 6 labels"]),
        ({"x_train": zeros(0, 4, 4, 3), "y_train": zeros(0)}, ["y_train is empty"]),
        ({"y_train": np.array([0.0, 1, 2, 0, 1, 2])}, ["y_train is float64", "integer"]),
        ({"y_train": np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]]}, ["[6, 3]", "[N]"]),
        ({"y_test": np.array([0, -1, 1])}, ["y_test has the label -1", "negative"]),
        ({"y_test": np.array([0, 1, 3])}, ["test has the label 3", "0 to 2"]),
        ({"y_train": np.array([0, 1, 2, 0, 1, 10**9])}, ["1000000000"]),
        ({"classes": np.array(["a", "b"])}, ["train has the label 2", "0 to 1"]),
        ({"classes": np.array(["a", "a", "b"])}, ["'a' twice"]),
        ({"classes": np.arange(3)}, ["classes is int64", "strings"]),
        ({"y_train": np.array([0, 1, 2, None, 1, 2], object)}, ["y_train holds Python objects"]),
    ],
)
def test_wrong_arrays(tmp_path, changes, words):
    """Wrong keys, shapes, types and labels are one line: what was found and what is wanted."""
    npz(tmp_path / "x.npz", **changes)
    with pytest.raises(ConfigError) as caught:
        arrays.load(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_no_arrays(tmp_path):
    """A missing path, no file, several files, a file that is none, a damaged one: each says so."""
    for root, words in ((None, "data.root is missing"), (tmp_path / "no", "no such"), (tmp_path, "0 .npz")):
        with pytest.raises(ConfigError, match=words):
            arrays.load(root and str(root))
    npz(tmp_path / "a.npz")
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200] ^= 255
    (tmp_path / "b.npz").write_bytes(content)
    (tmp_path / "c.npz").write_text("nothing of the kind")
    for root, words in (
        (tmp_path, "3 .npz files"),
        (tmp_path / "b.npz", "damaged"),
        (tmp_path / "c.npz", "not an"),
    ):
        with pytest.raises(ConfigError, match=words):
            arrays.load(str(root))
