"""Arrays that were read once are mapped by later processes, as long as the files are what they were."""

import numpy as np
import pytest

from runner.data import photo_cache as cache
from runner.data import vision
from tests.shared.data_sets import idx, mnist, own_keys


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """`(folder of the set, folder of the cache, load, list of the reads)`."""
    monkeypatch.setattr(cache, "SETTLED_NS", 0)  # else files made this very second are read again
    raw = mnist(tmp_path / "data")
    load, keys = own_keys("mnist")
    reads = []
    read = vision.torchvision_set
    monkeypatch.setattr(vision, "torchvision_set", lambda *given: reads.append(given) or read(*given))
    store = tmp_path / "cache"
    given = keys | {"root": str(tmp_path / "data"), "cache_dir": str(store)}
    return raw, store, lambda **more: load(**given | more), reads


def same(first, second):
    assert first.identity == second.identity and first.classes == second.classes
    for part in ("train", "test"):
        one, two = getattr(first, part), getattr(second, part)
        assert np.array_equal(one.images.numpy(), two.images.numpy())
        assert np.array_equal(one.labels.numpy(), two.labels.numpy())


def test_the_second_time_nothing_is_read(kept):
    """The same images, labels, classes and identity, without torchvision."""
    _, store, load, reads = kept
    first = load()
    assert len(reads) == 2 and len(list(store.glob("arrays-*"))) == 1
    same(first, load())
    assert len(reads) == 2
    same(first, load(download=True))  # all is there
    assert len(reads) == 2


def test_writing_to_images_does_not_write_back(kept):
    """They are mapped copy-on-write."""
    _, _, load, _ = kept
    first = load()
    load().train.images.fill_(7)
    same(first, load())


def test_a_changed_file_is_read_again(kept):
    """Also one of equal size, and one that only comes to lie beside the others."""
    raw, _, load, reads = kept
    first = load()
    changed = np.full((20, 28, 28), 9, np.uint8)
    idx(raw / "train-images-idx3-ubyte", changed)
    second = load()
    assert len(reads) == 4 and second.identity != first.identity
    assert int(second.train.images.min()) == 9
    (raw / "another").touch()
    same(second, load())
    assert len(reads) == 6


def test_other_arguments_are_another_set(kept):
    """What the reading goes by belongs to what is kept."""
    _, _, load, reads = kept
    load()
    other = load(names=[f"n{i}" for i in range(10)])
    assert len(reads) == 4 and other.classes[3] == "n3"
    assert load().classes != other.classes and len(reads) == 4


def test_files_of_this_second_are_not_kept(kept, monkeypatch):
    """They may change again, unseen."""
    _, store, load, reads = kept
    monkeypatch.setattr(cache, "SETTLED_NS", 10**15)
    same(load(), load())
    assert len(reads) == 4 and not store.exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "record", "label"])
def test_damage_is_said_and_mended(kept, caplog, damage):
    """A kept array that is not what it was is made again."""
    _, store, load, reads = kept
    first = load()
    (path,) = store.glob("arrays-*")
    content = bytearray(path.read_bytes())
    path.unlink()  # what is in use is not written to
    if damage in ("cut", "empty"):
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    elif damage != "gone":  # a label out of range is no complaint about the user's files
        content[{"flip": len(content) // 2, "record": -3, "label": 64 + 7}[damage]] ^= 1
        path.write_bytes(content)
    same(first, load())
    assert len(reads) == 4 and ("is damaged; making it again" in caplog.text) == (damage != "gone")
    caplog.clear()
    same(first, load())
    assert len(reads) == 4 and not caplog.text


def test_a_full_disk_costs_only_the_keeping(kept, full_disk, caplog):
    """The set is read all the same."""
    _, _, load, reads = kept
    same(load(), load())
    assert len(reads) == 4 and caplog.text.count("No space left") == 1
