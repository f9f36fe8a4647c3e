"""Finished runs, loaded in one call; broken checkpoints are refused."""

import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

from runner.build.load import load
from runner.core.errors import ConfigError
from runner.evaluation.trained import LoadedRun
from runner.store import checkpoint
from tests.shared.finished_runs import answer, digits


@pytest.mark.parametrize("name", ["plain", "stack", "weight_standardization", "group", "ema"])
def test_a_loaded_run_answers_as_it_was_tested(runs, name):
    """One call gives the networks with their normalisation; their accuracy is the one in the result."""
    found, test = load(runs / name), digits().test
    result = json.loads((runs / name / "result.json").read_text())
    assert isinstance(found, LoadedRun) and len(found.networks) == (2 if name == "group" else 1)
    assert not any(network.training for network in found.networks)
    chances = found.probabilities(test.images)
    assert (chances.argmax(1) == test.labels).double().mean().item() == result["test_accuracy"]
    loss = -chances[torch.arange(len(test)), test.labels].log().double().mean().item()
    assert loss == pytest.approx(result["test_loss"], rel=1e-4)


def test_from_the_file_or_the_folder(runs):
    """A checkpoint's own path does as well; what the network was made for comes along."""
    one, two = load(runs / "plain"), load(runs / "plain" / "checkpoint.pt")
    assert one.digest == two.digest and one.folder == two.folder == runs / "plain"
    splits = digits()
    assert one.inputs.classes == splits.classes and one.inputs.identity == splits.identity
    assert (one.inputs.channels, one.inputs.size, one.inputs.side) == (1, 8, 8)
    assert torch.equal(one.inputs.mean, splits.mean) and one.config["model"]["hidden"] == [8]


def test_floats_and_larger_images(runs):
    """Images in [0, 1] are answered as bytes are, larger ones by their centre."""
    images = digits().test.images[:20]
    expected = answer(runs / "plain", images)
    torch.testing.assert_close(answer(runs / "plain", images.float() / 255), expected)
    large = torch.nn.functional.pad(images, (3, 3, 3, 3), value=99)
    assert torch.equal(answer(runs / "plain", large), expected)


def damaged(runs, tmp_path, change):
    """A copy of a run whose checkpoint is changed."""
    folder = tmp_path / "broken"
    shutil.copytree(runs / "plain", folder)
    change(folder / "checkpoint.pt")
    return folder


def resealed(path, **changes):
    state = checkpoint.load(path)
    checkpoint.save(path, state | changes)


BROKEN = {
    "missing": (lambda path: path.unlink(), "no finished run (checkpoint.pt is not there)"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "is damaged: its checksum does not fit"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "unfinished": (lambda path: resealed(path, members=None), "this run is not finished; type its command again"),
    "weights": (lambda path: resealed(path, members=[{"a": torch.ones(1)}]), "its weights are not those of its own"),
    "other": (lambda path: checkpoint.save(path, {"a": 1}), "no checkpoint of a run"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_checkpoint_is_named(runs, tmp_path, how):
    """Missing, cut short, of a run that is not finished, of other weights: one line with its path."""
    change, line = BROKEN[how]
    folder = damaged(runs, tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert line in str(caught.value) and "broken" in str(caught.value) and "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(runs, tmp_path):
    """A pickle that names a function is refused, its checksum right or not."""
    marked = tmp_path / "marked"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marked,))

    def plant(path):
        torch.save({"members": Evil(), "about": "", "training": ""}, path)
        content = path.read_bytes()
        comment = b"sha256:" + hashlib.sha256(content).hexdigest().encode()
        path.write_bytes(content[:-2] + struct.pack("<H", len(comment)) + comment)

    with pytest.raises(ConfigError, match="holds more than tensors; nothing of it was run"):
        load(damaged(runs, tmp_path, plant))
    assert not marked.exists()


@pytest.mark.parametrize("deep", [False, True])
def test_a_checkpoint_names_no_class_of_its_own(runs, tmp_path, deep):
    """Classes from packages that are not trusted are refused, whatever trust the file itself claims."""

    def plant(path):
        about = json.loads(checkpoint.load(path)["about"])
        about["config"]["trust"] = ["os"]
        node = {"_target_": "os.system", "command": "true"}
        about["config"]["model"] = about["config"]["model"] | {"hidden": [node]} if deep else node
        resealed(path, about=json.dumps(about))

    with pytest.raises(ConfigError, match=r"os\.system: not from a trusted package"):
        load(damaged(runs, tmp_path, plant))
