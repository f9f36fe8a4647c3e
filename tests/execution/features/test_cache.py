"""Contents of the feature cache: hits, invalidation, damage and limits."""

import copy
import gc

import pytest
import torch
from torch import nn

from runner.data.splits import ResidentSplit
from runner.execution.features.store import Store
from tests.shared.features import DATA, assert_equal, make, trained


def test_computed_once(through):
    """Runs that share frozen stages share what these give; a later process reads it from the file."""
    store = Store()
    trained("augmentation=[flip]", store=store)
    assert through() == 50 * 2 + 20  # the training images twice, and validation
    trained("augmentation=[flip]", "optimizer=adam", "batch_size=20", "regularization=[label_smoothing]", store=store)
    assert through() == 0
    first = trained("augmentation=[flip]", store=Store())
    assert through() == 0
    assert_equal(first, trained("augmentation=[flip]", "transfer.cache=false"))


def brighter(data):
    """With one pixel of one training image changed."""
    images = data.train.images.clone()
    images[7, 0, 3, 3] ^= 1
    return copy.copy(data).__class__(**{**vars(data), "train": ResidentSplit(images, data.train.labels)})


def other(data, **changes):
    return type(data)(**(vars(data) | changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: brighter(data), ()),
        (lambda data: other(data, identity="1" * 64), ()),
        (lambda data: data.normalized_as((0.5,), (0.25,)), ()),
        (lambda data: other(data, train=data.train.select(torch.arange(49, -1, -1))), ()),
        (lambda data: data, ("augmentation=[vertical_flip]",)),
        (lambda data: data, ("seed=1",)),  # without weights from elsewhere: other frozen weights
        (lambda data: data, ("transfer.freeze_depth=1",)),
        (lambda data: data, ("precision=bf16",)),
    ],
    ids=["pixel", "identity", "normalisation", "order", "augmentation", "weights", "depth", "precision"],
)
def test_invalidated(change, words, through):
    """Whatever the kept numbers depend on makes them anew, and the run equals its uncached self."""
    store = Store()
    trained("augmentation=[flip]", store=store)
    through()
    data = change(DATA)
    words = ("augmentation=[flip]", *words)
    words = words[1:] if sum(word.startswith("augmentation") for word in words) > 1 else words
    cached = trained(*words, store=store, data=data)
    assert through() >= 100
    assert_equal(
        cached, trained(*words, "transfer.cache=false", data=data), 1e-2 if "precision=bf16" in words else 1e-6
    )


def test_a_changed_weight_file_invalidates(tmp_path, through):
    """Not the file's name counts, but what is in the frozen stages; what the head has is nothing to them."""
    path = tmp_path / "weights.pth"
    model = make()[0].model
    words = (f"transfer.weights={path}",)

    def saved():
        torch.save(model.state_dict(), path)
        trained(*words, store=store)
        return through() > 0

    store = Store()
    assert saved()
    model.head.bias.data += 1
    assert not saved()
    model.conv2.bias.data[0] += 1e-3
    assert saved()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damaged_files_are_made_again(damage, folder, through, caplog):
    """A file that is not what was written is not trusted."""
    trained()
    through()
    for path in folder.glob("features-*.cache"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 64
        path.write_bytes({"flipped": content, "cut": content[:-8], "empty": b""}[damage])
    cached = trained()
    assert through() == 50 + 20
    assert caplog.text.count("is damaged") == 2
    assert_equal(cached, trained("transfer.cache=false"))


def test_kept_rows_of_another_network_are_made_again(through, monkeypatch, caplog):
    """Code that gives other numbers under the same names and weights shows on the first images."""
    relu = nn.ReLU.forward
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda self, x: relu(self, x) * 2)
        trained()
    through()
    cached = trained()
    assert "not what this network gives" in caplog.text
    assert through() == 50 + 20 - 20  # validation is not compared
    plain = trained("transfer.cache=false")
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], value)


def test_without_a_folder(tmp_path, monkeypatch, caplog):
    """Where nothing can be written, memory serves."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_equal(trained(), trained("transfer.cache=false"))
    assert "cannot be written" in caplog.text


def test_full_disk(full_disk, caplog):
    """A file that cannot be written costs the file alone."""
    assert_equal(trained(), trained("transfer.cache=false"))
    assert caplog.text.count("No space left") == 1  # of two splits


def test_folder_has_a_limit(folder, monkeypatch):
    """Files that were unused for longest make room."""
    trained()
    gc.collect()  # the run, which uses them
    before = set(folder.glob("features-*"))
    monkeypatch.setenv("RUNNER_CACHE_GB", str((50 * 12 * 4 + 20 * 12 * 4 + 150) / 1e9))
    run = trained("seed=1")
    after = set(folder.glob("features-*"))
    assert len(before) == 2 and len(after) == 2
    assert not before & after
    trained("seed=2")  # finds no room: what a run uses stays
    assert set(folder.glob("features-*")) == after and run


def test_process_has_a_limit(through):
    """What a process holds stays within the budget; what is used last stays."""
    size = 50 * 12 * 4
    store, made = Store(), []

    class Rows:
        bytes = size

    for key in ("a", "b", "a", "c"):
        store.get(key, 2 * size, lambda key=key: made.append(key) or Rows())
    store.get("a", 2 * size, lambda: made.append("a again"))
    store.get("b", 2 * size, lambda: made.append("b again") or Rows())
    assert made == ["a", "b", "c", "b again"]
