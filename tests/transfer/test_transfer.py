"""Transfer as a user types it: refusals, fingerprints, dry runs and results."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from runner.build.check import check
from runner.store import checkpoint
from runner.store.fingerprint import fingerprints
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.results import result_of
from tests.shared.training import make
from tests.shared.transfer import DIGITS, NET, NORM, finished, network, refusal, saved, values

# -- bad input ------------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused(tmp_path):
    """One line each, with the way out."""
    line = refusal("transfer.freeze_depth=4")
    assert "transfer.freeze_depth=4: ConvNet has the 4 stages conv1, conv2, hidden, head" in line and "0 to 3" in line
    assert "0 to 3, or all" in refusal("transfer.freeze_depth=-5")
    assert "nothing is frozen; set transfer.freeze_depth" in refusal("transfer.unfreeze.every=1")
    line = refusal("transfer=gradual", "optimizer=lbfgs", saved(tmp_path, network(classes=10).state_dict()))
    assert "transfer.unfreeze.every=1: a full-batch optimizer" in line and "transfer.unfreeze.every=null" in line
    for word in ("freeze_depth=some", "freeze_depth=true", "layer_decay=1.5", "pretrained_lr_scale=0"):
        assert word in refusal(f"transfer.{word}")
    for word in ("transfer.frozen_norm=on", "transfer.head_lr_scale=-1", "+transfer.unfreeze.often=1"):
        assert word.strip("+").partition("=")[0].split(".")[1] in refusal("transfer.freeze_depth=1", word)
    assert "transfer.unfreeze" in refusal("transfer.freeze_depth=1", "transfer.unfreeze.every=0")


def test_random_stages_that_are_frozen_are_warned_of(tmp_path, caplog):
    """All of them without weights, and those that did not come with them; whole ones are not."""
    builder = Resources()

    def warned(*overrides):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            builder.preflight(check(composed(*NET, *overrides)))
        return [record.getMessage() for record in caplog.records if "freeze_depth" in record.getMessage()]

    state = network(classes=10).state_dict()
    random = "transfer.freeze_depth=all without transfer.weights: the frozen stages are random"
    assert warned("transfer=last_layer") == [random]
    assert warned("transfer=scratch", "transfer.freeze_depth=all", saved(tmp_path, state)) == [random]
    assert warned("transfer=last_layer", saved(tmp_path, state)) == warned() == []
    del state["conv2.bias"]
    found = warned("transfer=last_layer", saved(tmp_path, state, "partly.pth"))
    assert found == ["transfer.freeze_depth=all: frozen, but not in the weights: conv2.bias"]
    assert warned("transfer.freeze_depth=1", f"transfer.weights={tmp_path / 'partly.pth'}") == []


# -- who a run is ---------------------------------------------------------------------------------------------------


def fingerprint(*overrides):
    config = check(composed(*NET, *overrides))
    return fingerprints(config, Resources().preflight(config).identity, frozenset())[0]


def test_a_run_is_its_weights_not_their_path(tmp_path):
    """The same file under two names is one run, a changed file another; so is none."""
    state = network(classes=10).state_dict()
    one = fingerprint(saved(tmp_path, state, "one.pth"))
    shutil.copy(tmp_path / "one.pth", tmp_path / "two.pth")
    assert fingerprint(f"transfer.weights={tmp_path / 'two.pth'}") == one
    state["conv1.bias"][0] += 1e-3
    assert fingerprint(saved(tmp_path, state, "two.pth")) != one
    assert fingerprint() != one
    run = fingerprint(finished(tmp_path / "a", state))
    assert fingerprint(finished(tmp_path / "b", state)) == run != one


def test_scratch_loads_nothing(tmp_path):
    """With weights given or without, `transfer=scratch` is the same run, from random weights."""
    state = network().state_dict()
    given = make(*NET, "transfer=scratch", saved(tmp_path, state))
    fresh = values(make(*NET))
    assert given.transfer.audit is None and all(torch.equal(v, fresh[name]) for name, v in values(given).items())
    assert fingerprint("transfer=scratch", saved(tmp_path, state)) == fingerprint("transfer=scratch")
    mean = Resources().splits(check(composed("transfer=scratch", finished(tmp_path / "run", state, mean=(0.1,))))).mean
    assert torch.equal(mean, Resources().splits(check(composed())).mean)


def test_images_are_normalized_as_the_weights_were_trained(tmp_path):
    """By the statistics of a run, or of torchvision's preset; those of colour serve for repeated grey, too."""
    state = network().state_dict()

    def statistics(*overrides):
        found = Resources().splits(check(composed(*overrides, "data.limit=50")))
        return found.mean.tolist(), found.std.tolist()

    run = finished(tmp_path / "run", state, mean=(0.3,), std=(0.2,))
    assert statistics(run) == (pytest.approx([0.3]), pytest.approx([0.2]))
    colour = finished(tmp_path / "colour", state, mean=(0.2, 0.4, 0.9), std=(0.1, 0.2, 0.6))
    assert statistics(colour) == (pytest.approx([0.2, 0.4, 0.9]), pytest.approx([0.1, 0.2, 0.6]))
    found = statistics("model=squeezenet1_1", saved(tmp_path, state))  # the mean over ImageNet's three channels
    assert found == (pytest.approx([(0.485 + 0.456 + 0.406) / 3]), pytest.approx([(0.229 + 0.224 + 0.225) / 3]))
    assert statistics(saved(tmp_path, state)) == statistics()


# -- as typed -------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_audit(cli, tmp_path):
    """Stage, parameters, what trains, how fast, batch-norm mode, and where the weights came from."""
    weights = saved(tmp_path, network(classes=5).state_dict())
    words = ("transfer.freeze_depth=2", "optimizer.lr=0.2", "dry_run=true")
    code, out, _ = cli(*NET, NORM, weights, *words)
    lines = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in out.splitlines()]
    assert code == 0 and not Path("outputs").exists()
    assert ["conv1", "44", "0", "frozen", "eval"] in lines and ["conv2", "152", "0", "frozen", "eval"] in lines
    assert ["hidden", "144", "144", "0.02", "train"] in lines and ["head", "90", "90", "0.2", "-"] in lines
    assert "weights: 6 tensors from weights.pth; new: head.weight, head.bias" in out


def test_pretrain_then_transfer(cli):
    """Two commands: half of the classes, then the others from the finished run, dropped weights and all; the result
    tells what came, and a repetition is known."""
    stack = "regularization=[batchnorm,dropconnect]"
    assert cli(*DIGITS, stack, "data.classes=[0,1,2,3,4]", "name=first")[0] == 0
    second = (*DIGITS, stack, "data.classes=[5,6,7,8,9]", "name=second", "transfer.weights=outputs/first")
    code, out, err = cli(*second, "transfer=last_layer")
    assert code == 0 and "frozen" not in err
    (first,) = Path("outputs/first").glob("*/checkpoint.pt")
    told = result_of(Path("outputs/second"))["transfer"]
    assert told["weights"] == f"run {first.parent.name}"
    assert told["unfit"] == {"head.weight": "other classes", "head.bias": "other classes"}
    assert told["missing"] == told["unused"] == [] and told["adapted"] == {}
    assert [row["trainable"] for row in told["stages"]] == [0, 0, 0, 45]
    (file,) = Path("outputs/second").glob("*/checkpoint.pt")
    state, source = (checkpoint.load(path)["members"][0] for path in (file, first))
    same = [name for name in source if torch.equal(source[name], state[name])]
    assert set(same) == {name for name in source if not name.startswith("head")}
    assert any("parametrizations" in name for name in same)
    assert told["loaded"] == len(same)
    assert "done already" in cli(*second, "transfer=last_layer")[1]


def test_a_result_without_weights_says_so(cli):
    """`transfer` of a run from random weights: no origin, every stage in training."""
    assert cli(*DIGITS)[0] == 0
    told = result_of(Path("outputs/runs"))["transfer"]
    assert told["weights"] is None and all(row["trainable"] == row["parameters"] for row in told["stages"])
