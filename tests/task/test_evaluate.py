"""`task=evaluate`: finished runs evaluated and put together; refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from runner.build.load import load
from tests.shared.finished_runs import answer, digits
from tests.shared.results import result_of, results_of

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
