"""Checkpoint files: whole or not at all, verified, and harmless."""

import io
import logging
import os
import zipfile

import pytest
import torch

from runner.store import checkpoint

STATE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])},
    "numbers": [1, 2.5, None, True],
    "word": "sha256:of something else",
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / checkpoint.FILE
    checkpoint.save(path, STATE)
    return path


def assert_is_state(state):
    assert state.keys() == STATE.keys()
    assert state["numbers"] == STATE["numbers"] and state["word"] == STATE["word"]
    for name, value in STATE["weights"].items():
        assert state["weights"][name].dtype == value.dtype and torch.equal(state["weights"][name], value)


def test_round_trip(saved):
    """What was saved comes back: tensors with their types, numbers, words, nesting."""
    assert_is_state(checkpoint.load(saved))


def test_torch_and_zip_read_it(saved):
    """The file is an ordinary one: `torch.load` and zip tools read it."""
    assert_is_state(torch.load(saved, weights_only=True))
    with zipfile.ZipFile(saved) as file:
        assert file.testzip() is None and file.comment.startswith(b"sha256:")


def test_every_flipped_byte_is_found(saved):
    """One bit changed makes the file `Damaged`, which names it: in the body, the zip's end, the checksum."""
    content = saved.read_bytes()
    unseen = []
    for position in [*range(0, len(content), 11), *range(len(content) - 100, len(content))]:
        saved.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            checkpoint.load(saved)
            unseen.append(position - len(content))
        except checkpoint.Damaged as error:
            assert str(saved) in str(error)
        except Exception as error:
            unseen.append((position - len(content), type(error).__name__))
    assert unseen == []


def test_every_truncation_is_found(saved):
    """A file that ends early, or goes on after its end, is `Damaged`."""
    content = saved.read_bytes()
    for end in [*range(0, len(content), 17), *range(len(content) - 80, len(content))]:
        saved.write_bytes(content[:end])
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load(saved)
    for more in (b"\0", content):
        saved.write_bytes(content + more)
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load(saved)


def test_another_file_is_found(tmp_path):
    """A plain `torch.save` without the checksum, the mark of one far from its end or not, and a text are `Damaged`."""
    plain, words, text = (tmp_path / name for name in ("plain.pt", "words.pt", "text.pt"))
    torch.save(STATE, plain)
    torch.save({"about": "sha256:" + 70_000 * "a", **STATE}, words)
    text.write_text("sha256:")
    for path in (plain, words, text):
        with pytest.raises(checkpoint.Damaged):
            checkpoint.load(path)


class Trap:
    """Pickled, it would make a folder on loading."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_never_runs(tmp_path):
    """A file with a valid checksum and code in its pickle is refused before the code runs."""
    path, mark = tmp_path / "trap.pt", tmp_path / "ran"
    checkpoint.save(path, {"run": Trap(mark)})
    with pytest.raises(checkpoint.Damaged, match="nothing of it was run"):
        checkpoint.load(path)
    assert not mark.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert mark.exists()  # the trap works


def test_load_if_whole(saved, tmp_path, caplog):
    """Nothing there: None; a damaged file: None and a warning that names it; a whole one: its state."""
    assert_is_state(checkpoint.load_if_whole(saved))
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_if_whole(tmp_path / "none.pt") is None
        assert not caplog.records
        saved.write_bytes(saved.read_bytes()[:-1])
        assert checkpoint.load_if_whole(saved) is None
    (record,) = caplog.records
    assert str(saved) in record.getMessage() and "starts anew" in record.getMessage()


@pytest.mark.parametrize("failing", ["fsync", "fdopen"])
def test_a_failed_write_leaves_the_old_file(saved, monkeypatch, failing):
    """Where writing fails, the old checkpoint stays whole and nothing else is left behind."""

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved, {"other": 1})
    monkeypatch.undo()
    assert_is_state(checkpoint.load(saved))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_write_replaces_the_old_file(saved):
    """A second save takes the place of the first."""
    checkpoint.save(saved, {"other": 1})
    assert checkpoint.load(saved) == {"other": 1}
