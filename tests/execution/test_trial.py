"""The trial that chooses between two ways to compute gradients, and the files that keep its decision."""

import json
from dataclasses import replace

import pytest
import torch

from runner.execution import trial as trying
from runner.execution.closeness import close, distance
from runner.execution.decision import Decision, Decisions, too_short
from runner.execution.eager import gradients
from runner.execution.trial import Trial, Unusable
from tests.shared.fused import SMALL_CONV
from tests.shared.training import make


@pytest.fixture
def trial(monkeypatch):
    """A run, and a trial of its gradients against `other` that measures these seconds of a step."""

    def prepared(plain, quick, first=0.0, **options):
        calls, fast = iter([plain, first]), iter([plain, quick])
        monkeypatch.setattr(trying, "timed", lambda work, device: (work(), next(calls)))
        monkeypatch.setattr(trying, "fastest", lambda work, device: (work(), next(fast))[1])
        run = make(*SMALL_CONV, "regularization=[batchnorm,dropout]")
        run.train_mode()
        with trying.untouched([run]):
            batch = run.next_batch()
        ways = dict.fromkeys(("plain", "other"), lambda: gradients(run, batch))
        return run, Trial(**{"runs": [run], "leaves": run.trained, "steps": 100} | ways | options)

    return prepared


@pytest.mark.parametrize(
    ("plain", "quick", "first", "on"),
    [
        (0.002, 0.001, 0.09, True),
        (0.002, 0.001, 0.11, False),  # 100 steps gain 0.1 s
        (0.00106, 0.001, 0.0, True),
        (0.00104, 0.001, 0.0, False),  # within the noise of a clock
    ],
)
def test_the_other_way_must_be_faster_and_earn_its_preparation(trial, plain, quick, first, on):
    _, chosen = trial(plain, quick, first=first, preparation="compiling")
    assert chosen.decide().on is on


def test_without_a_preparation_nothing_has_to_be_earned(trial):
    _, chosen = trial(0.002, 0.001, first=1e9)
    assert chosen.decide() == Decision(True, "gradients of a step take 1 ms against 2 ms")


def test_too_little_training_is_left(trial):
    """Then the other way is not even tried."""
    _, chosen = trial(0.002, 0.001, other=pytest.fail, least=0.21)
    assert chosen.decide() is None
    _, chosen = trial(0.002, 0.001, least=0.19)
    assert chosen.decide().on


def test_errors_are_those_of_the_plain_way(trial):
    """The other way's are a reason against it; the plain way's are the step's own."""

    def other():
        raise Unusable("an op of the host")

    assert trial(0.002, 0.001, other=other)[1].decide() == Decision(False, "an op of the host")

    def breaks():
        raise OSError("no space\nleft")

    assert trial(0.002, 0.001, other=breaks)[1].decide() == Decision(False, "OSError: no space")
    with pytest.raises(OSError, match="no space"):
        replace(trial(0.002, 0.001)[1], plain=breaks).decide()


def test_a_trial_leaves_no_trace(trial):
    """Weights, statistics, generators, gradients and counts are what they were."""
    run, chosen = trial(0.002, 0.001, warm=2)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    draws = run.noise.get_state(), run.augmenting.get_state(), torch.get_rng_state()
    assert chosen.decide().on
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(map(torch.equal, draws, (run.noise.get_state(), run.augmenting.get_state(), torch.get_rng_state())))
    assert run.meter.losses == [] and all(p.grad is None for p in run.model.parameters())


# -- what is equal but for rounding ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "off", "same"),
    [
        (torch.float64, 1e-10, True),
        (torch.float64, 1e-8, False),
        (torch.float32, 9e-4, True),
        (torch.float32, 2e-3, False),
        (torch.bfloat16, 3e-2, True),
        (torch.float32, float("nan"), False),
        (torch.float32, float("inf"), False),
    ],
)
def test_close(dtype, off, same):
    """By type, relative to the largest value."""
    expected = torch.tensor([0.0, -100.0, 3.0], dtype=dtype)
    assert close(expected + torch.tensor([100 * off, 0, 0], dtype=dtype), expected) is same


def test_zeros_and_integers_are_close_to_themselves_alone():
    zeros, ones = torch.zeros(3), torch.ones(3, dtype=torch.int64)
    assert close(zeros, zeros) and not close(zeros + 1e-6, zeros)
    assert close(ones, ones) and not close(ones + 1, ones)


def test_a_small_tensor_is_measured_by_a_hundredth_of_the_largest():
    """A bias before a batch normalisation has no gradient but rounding."""
    expected = [torch.tensor([100.0]), torch.tensor([0.0])]
    assert distance([torch.tensor([100.0]), torch.tensor([1e-3])], expected) == pytest.approx(1e-3)
    assert distance([torch.tensor([1e-9])], [torch.tensor([0.0])], floor=1e-6) == pytest.approx(1e-3)
    assert distance([None], [torch.ones(1)]) == float("inf") and distance([None], [None]) == 0.0


# -- decisions in a folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("fuse", "fused"), ("compile", "compiled")])
def test_decisions_that_earlier_versions_wrote_are_read(tmp_path, kind, name):
    """The files' names and keys are part of every folder that is there."""
    file = tmp_path / f".{kind}" / "0123.json"
    file.parent.mkdir()
    file.write_text(json.dumps({name: True, "reason": "a step takes 2 ms"}))
    decisions = Decisions(tmp_path, kind)
    assert decisions.load("0123") == Decision(True, "a step takes 2 ms")
    file.unlink()
    assert decisions.load("0123") is None and decisions.load_all() == []
    decisions.save("0123", Decision(False, "no"))
    assert json.loads(file.read_text()) == {name: False, "reason": "no"}


def test_the_first_decision_counts(tmp_path):
    """But for one that somebody insists on."""
    decisions, first = Decisions(tmp_path, "fuse"), Decision(False, "first")
    assert decisions.save("k", first) == first
    assert decisions.save("k", Decision(True, "second")) == first == decisions.load("k")
    assert decisions.save("k", Decision(True, "third"), must=True) == decisions.load("k") == (True, "third")
    assert decisions.load_all() == [(True, "third")] and len(list(decisions.files.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fused": true}', "{"])
def test_a_damaged_decision_is_written_anew(tmp_path, text, caplog):
    decisions = Decisions(tmp_path, "fuse")
    decisions.files.mkdir()
    (decisions.files / "k.json").write_text(text)
    assert decisions.load("k") is None
    assert decisions.save("k", Decision(True, "measured")) == decisions.load("k") == (True, "measured")
    assert "k.json is damaged: it is written anew" in caplog.text


def test_runs_that_are_too_short_for_a_trial():
    """The bound that is named is the one that holds."""
    assert too_short(99) == "fewer than 100 steps: a trial would not pay" and too_short(100) == ""
    assert (
        too_short(19, cached=True) == "fewer than 20 steps: a trial would not pay" and too_short(20, cached=True) == ""
    )
