"""Finished runs: loaded in one call, evaluated, put together, asked for predictions; and what is refused."""

import csv
import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.__main__ import main
from runner.build.check import check
from runner.build.load import load
from runner.core.errors import ConfigError
from runner.data.decode import decode
from runner.evaluation.trained import LoadedRun
from runner.store import checkpoint
from runner.task.predict import grey
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.finished_runs import QUICK, RUNS
from tests.shared.results import result_of, results_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small finished runs on the digits: `runs / NAME`."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, words in RUNS.items():
            assert main([*QUICK, *words, f"hydra.run.dir={name}"]) == 0, name
    return root


def answer(path: Path, images):
    return load(path).probabilities(images)


def digits():
    return Resources().splits(check(composed(*QUICK)))


# -- load -----------------------------------------------------------------------------------------------------------


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


# -- task=evaluate --------------------------------------------------------------------------------------------------


def evaluate(cli, *words):
    code, out, err = cli("task=evaluate", "threads=1", "log.tensorboard=false", *words)
    return code, err


def test_evaluate_gives_the_runs_own_numbers(cli, runs):
    """On its own data a run has the accuracy and loss that its result has, test and validation."""
    kept = json.loads((runs / "stack" / "result.json").read_text())
    code, _, err = cli(
        "-m", "task=evaluate", "threads=1", f"task.checkpoint={runs / 'stack'}", "task.split=test,val,train"
    )
    assert code == 0, err
    found = {split: one for one in results_of(Path("outputs/runs")).values() for split in [one["swept"]["task.split"]]}
    for split in ("test", "val"):
        for key in ("accuracy", "loss", "calibration_error"):
            assert found[split][f"{split}_{key}"] == pytest.approx(kept[f"{split}_{key}"], rel=1e-5), (split, key)
        assert found[split]["accuracy"] == found[split][f"{split}_accuracy"]
    assert found["test"]["confusion"] == kept["confusion"] and found["test"]["ensemble"] is None
    assert found["train"]["data"]["train"] == 180 and 0 <= found["train"]["train_accuracy"] <= 1


def test_evaluations_of_a_checkpoint(cli, runs):
    """The evaluation that is chosen asks it: several passes differ, one does not."""
    kept = json.loads((runs / "stack" / "result.json").read_text())
    code, _, err = cli(
        "-m", "task=evaluate", "threads=1", f"task.checkpoint={runs / 'stack'}", "evaluation=monte_carlo,views"
    )
    assert code == 0, err
    for found in results_of(Path("outputs/runs")).values():
        assert found["test_loss"] != kept["test_loss"] and found["test_uncertainty"]["spread"] > 0


def test_a_trained_ensemble_answers_by_itself(cli, runs):
    """The checkpoint of an ensemble is one: members, and the average that it was trained for."""
    assert evaluate(cli, f"task.checkpoint={runs / 'group'}") == (0, "")
    kept, found = json.loads((runs / "group" / "result.json").read_text()), result_of(Path("outputs/runs"))
    assert found["ensemble"] == kept["ensemble"]
    assert found["test_loss"] == pytest.approx(kept["test_loss"], rel=1e-5)


def test_runs_of_different_architectures(cli, runs):
    """Their mean is NumPy's, each through its own normalisation; what comes out is saved and loads as one."""
    names = ("plain", "weight_standardization", "ema")
    words = ",".join(str(runs / name) for name in names)
    assert evaluate(cli, "ensemble=checkpoints", f"ensemble.runs=[{words}]") == (0, "")
    found, test = result_of(Path("outputs/runs")), digits().test
    alone = np.stack([answer(runs / name, test.images).double().numpy() for name in names])
    labels, mean = test.labels.numpy(), alone.mean(0)
    assert found["test_accuracy"] == (mean.argmax(1) == labels).mean()
    assert found["test_loss"] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean(), rel=1e-5)
    assert found["ensemble"]["members"] == (alone.argmax(2) == labels).mean(1).tolist()
    assert found["ensemble"]["runs"] == list(names) and found["networks"] == 3
    (folder,) = [path.parent for path in Path("outputs/runs").glob("*/checkpoint.pt")]
    assert (folder / "ensemble.png").exists()
    np.testing.assert_allclose(load(folder).probabilities(test.images), mean, rtol=1e-4, atol=1e-6)
    assert evaluate(cli, f"task.checkpoint={folder.parent}/*checkpoints*", "name=again") == (0, "")
    again = result_of(Path("outputs/again"))
    assert again["ensemble"]["members"] == found["ensemble"]["members"]
    assert again["test_loss"] == pytest.approx(found["test_loss"], rel=1e-6)


def test_runs_by_a_pattern(cli, runs):
    """`*` names what trained and passes over the rest; the same network counts once."""
    shutil.copytree(runs / "plain", "some/plain")
    shutil.copytree(runs / "plain", "some/again")
    shutil.copytree(runs / "other", "some/other")
    Path("some/notes").mkdir()
    Path("some/report.html").write_text("")
    assert evaluate(cli, "ensemble=checkpoints", "ensemble.runs=some/*", "name=some") == (0, "")
    (first,) = results_of(Path("outputs/some")).values()
    assert first["networks"] == 2
    shutil.copytree(next(Path("outputs/some").glob("task*")), "some/evaluated")
    assert evaluate(cli, "ensemble=checkpoints", "ensemble.runs=some/*", "name=again") == (0, "")
    assert result_of(Path("outputs/again"))["networks"] == 2


def test_a_checkpoint_by_a_pattern(cli, runs):
    """A pattern names one run, for the names of runs hold what Hydra wants quoted."""
    assert evaluate(cli, f"task.checkpoint={runs}/st?ck") == (0, "")
    code, err = evaluate(cli, f"task.checkpoint={runs}/s*")
    assert code == 2 and "names 3 runs; name one" in err


def test_other_data_of_the_same_classes(cli, runs):
    """`data=` takes another set: here the digits turned upside down, as a file of arrays."""
    splits = digits()
    images = splits.test.images.flip(-2).numpy().transpose(0, 2, 3, 1)
    labels = splits.test.labels.numpy()
    np.savez("turned.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = ("data=arrays", "data.root=turned.npz", f"task.checkpoint={runs / 'plain'}")
    code, err = evaluate(cli, *words)
    assert code == 0, err
    chances = answer(runs / "plain", splits.test.images.flip(-2))
    expected = (chances.argmax(1) == splits.test.labels).double().mean().item()
    assert result_of(Path("outputs/runs"))["test_accuracy"] == expected


# -- soup -----------------------------------------------------------------------------------------------------------


def test_soup(cli, runs):
    """The greedy soup is the paper's: sorted by validation, a run enters if validation does not fall."""
    names = ("plain", "start")
    words = ",".join(str(runs / name) for name in names)
    assert evaluate(cli, "ensemble=soup", f"ensemble.runs=[{words}]") == (0, "")
    found, splits = result_of(Path("outputs/runs")), digits()

    def accuracy(model, split):
        normal = load(runs / "plain").networks[0].normalize
        with torch.no_grad():
            return (model(normal(split.images)).argmax(1) == split.labels).double().mean().item()

    models = sorted((load(runs / name).networks[0].model for name in names), key=lambda m: -accuracy(m, splits.val))
    best, both = models[0], load(runs / "plain").networks[0].model
    states = [model.state_dict() for model in models]
    both.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    taken = accuracy(both, splits.val) >= accuracy(best, splits.val)
    answering = both if taken else best
    assert found["test_accuracy"] == accuracy(answering, splits.test)
    facts = found["ensemble"]
    assert facts["members"] == [accuracy(model, splits.test) for model in models]
    assert facts["gain"] == pytest.approx(found["test_accuracy"] - np.mean(facts["members"]))
    assert [name.endswith("*") for name in facts["runs"]] == [True, taken] and found["networks"] == 1
    (folder,) = [path.parent for path in Path("outputs/runs").glob("*/checkpoint.pt")]
    state = load(folder).networks[0].model.state_dict()
    assert all(torch.equal(value, answering.state_dict()[name]) for name, value in state.items())


# -- refusals -------------------------------------------------------------------------------------------------------

REFUSED = {
    "classes": ("ensemble=checkpoints", ["plain", "classes"], "classes: other classes (0, 1, 2) than "),
    "split": ("ensemble=checkpoints", ["plain", "split"], "(data.split_seed is 1 there and 0 here): one would be"),
    "alone": ("ensemble=checkpoints", ["plain", "plain"], "one network alone; name at least 2 runs"),
    "architecture": ("ensemble=soup", ["plain", "weight_standardization"], "another architecture than"),
    "norms": ("ensemble=soup", ["plain", "stack"], "another architecture than"),
    "start": ("ensemble=soup", ["plain", "other"], "other: began with the random weights of seed=1, "),
    "group": ("ensemble=soup", ["plain", "group"], "group: is an ensemble of 2; a soup is of single runs"),
    "missing": ("ensemble=checkpoints", ["plain", "nowhere"], "nowhere: no finished run (checkpoint.pt is not there)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_runs_that_do_not_belong_together(cli, runs, what):
    """Other classes, other splits, other architectures or starts of a soup, a missing member: one line, named."""
    option, names, line = REFUSED[what]
    words = ",".join(str(runs / name) for name in names)
    code, err = evaluate(cli, option, f"ensemble.runs=[{words}]")
    assert code == 2 and line in err and err.count("\n") == 1
    assert not Path("outputs").exists()


LINES = {
    "nothing": ((), "task.checkpoint is missing: name a finished run, task.checkpoint=outputs/NAME/RUN"),
    "no runs": (("ensemble=checkpoints",), "ensemble.runs is missing: name finished runs"),
    "empty": (("ensemble=checkpoints", "ensemble.runs=no/*"), "ensemble.runs=no/*: names no run (nothing is there)"),
    "both": (("ensemble=checkpoints", "ensemble.runs=PLAIN", "task.checkpoint=PLAIN"), "choose one of them"),
    "training": (("ensemble=ema", "task.checkpoint=PLAIN"), "ensemble=ema: is made in training; leave it out"),
    "model": (("model=mlp", "task.checkpoint=PLAIN"), "model=mlp: this task has no use for it; leave it out"),
    "val": (("task.checkpoint=PLAIN", "data.val_fraction=0", "task.split=val"), "task.split=val: this data has none"),
    "silent": (("task.checkpoint=PLAIN", "evaluation=monte_carlo"), "nothing in MLP is random"),
    "other data": (("task.checkpoint=CLASSES", "data=digits"), "they must be the same, in the same order"),
}


@pytest.mark.parametrize("what", LINES)
def test_evaluate_refuses(cli, runs, what):
    """What cannot be evaluated is said in one line before anything is written."""
    words, line = LINES[what]
    places = {"PLAIN": str(runs / "plain"), "CLASSES": str(runs / "classes")}
    for mark, path in places.items():
        words = [word.replace(mark, path) for word in words]
    code, err = evaluate(cli, *words)
    assert code == 2 and line in err and err.count("\n") == 1, err
    assert not Path("outputs").exists()


@pytest.mark.parametrize("option", ["checkpoints", "soup"])
def test_finished_runs_are_not_trained(cli, runs, option):
    """`task=train` has no use for them, and says which task has."""
    code, _, err = cli(f"ensemble={option}", f"ensemble.runs={runs}/*", "threads=1")
    assert code == 2 and "finished runs are put together, not trained; add task=evaluate" in err


# -- task=predict ---------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """A folder of photos: coloured, of several sizes, one below another folder, one that is none."""
    root, draws = tmp_path / "photos", np.random.default_rng(0)
    (root / "deep").mkdir(parents=True)
    for name, shape in (("b.png", (20, 30, 3)), ("deep/a.png", (16, 12, 3)), ("c.jpg", (9, 9, 3))):
        Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)).save(root / name)
    (root / "broken.jpg").write_bytes(b"no photo")
    (root / "notes.txt").write_text("")
    return root


@pytest.mark.parametrize("words", [("task.checkpoint=GROUP",), ("ensemble=checkpoints", "ensemble.runs=[PLAIN,EMA]")])
def test_predict(cli, runs, photos, words):
    """Each photo's row: its file, the most probable class, and the probabilities that the loaded networks give."""
    for name in ("plain", "ema", "group"):
        words = [word.replace(name.upper(), str(runs / name)) for word in words]
    code, _, err = cli("task=predict", f"task.images={photos}", "threads=1", *words)
    assert code == 0, err
    (path,) = Path("outputs/runs").glob("*/predictions.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["file"] for row in rows] == ["b.png", "broken.jpg", "c.jpg", "deep/a.png"]
    assert rows[1]["class"] == "" and result_of(Path("outputs/runs"))["skipped"] == ["broken.jpg"]
    for row in (rows[0], rows[2], rows[3]):
        image = Image.fromarray(decode(str(photos / row["file"]), 8).transpose(1, 2, 0)).convert("L")
        image = torch.from_numpy(np.array(image))[None, None]
        if words[0].startswith("task"):
            expected = answer(runs / "group", image)[0]
        else:
            expected = (answer(runs / "plain", image)[0] + answer(runs / "ema", image)[0]) / 2
        found = [float(row[f"p_{name}"]) for name in "0123456789"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        assert row["class"] == str(int(expected.argmax())) and float(row["probability"]) == max(found)


def test_grey_is_pillows():
    """A colour photo becomes grey as Pillow makes it, to the last level."""
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 9), dtype=np.uint8)
    for mine, image in zip(grey(images), images):
        theirs = np.array(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
        assert np.abs(mine[0].astype(int) - theirs).max() <= 1
    same = np.repeat(images[:, :1], 3, 1)
    np.testing.assert_array_equal(grey(same), same[:, :1])


PREDICT = {
    "no folder": ((), "task.images is missing: a folder of images"),
    "nowhere": (("task.images=nowhere",), "task.images=nowhere: no such folder"),
    "no photos": (("task.images=empty",), "task.images=empty: no images there"),
    "data": (("task.images=PHOTOS", "data=digits"), "data=digits: this task has no use for it"),
    "soup": (
        ("task.images=PHOTOS", "ensemble=soup", "ensemble.runs=[PLAIN,START]"),
        "task=evaluate does that and saves",
    ),
}


@pytest.mark.parametrize("what", PREDICT)
def test_predict_refuses(cli, runs, photos, what):
    """No folder, no photos, options that it has no use for: one line."""
    words, line = PREDICT[what]
    for mark, path in (("PHOTOS", photos), ("PLAIN", runs / "plain"), ("START", runs / "start")):
        words = [word.replace(mark, str(path)) for word in words]
    mine = [] if what == "soup" else [f"task.checkpoint={runs / 'plain'}"]
    Path("empty").mkdir()
    code, _, err = cli("task=predict", "threads=1", *mine, *words)
    assert code == 2 and line in err and err.count("\n") == 1, err
