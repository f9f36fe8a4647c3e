"""Runs that see the same images, and draw the same noise: what follows from these alone is computed once."""

import copy
import json
from pathlib import Path

import pytest
import torch

from runner.execution.fused.broadcast import Broadcast
from runner.execution.fused.network import StackedNetwork
from runner.execution.fused.program import FusedProgram
from runner.regularization.gaussian_noise import GaussianNoiseLayer as GaussianNoise
from runner.train.loop import step
from runner.train.slot import BATCHES, NOISE, Slot
from tests.shared.features import SQUEEZENET
from tests.shared.features import make as on_features
from tests.shared.fused import SMALL_CONV, compare, doubled, seated, states, train_together
from tests.shared.results import results_of
from tests.shared.training import make, splits

EACH = ("optimizer=sgd", "optimizer=adam", "optimizer=momentum lr_scale=0.5", "optimizer=adamw")


@pytest.fixture
def entrances(monkeypatch):
    """What shared networks were given: whether once for all, and how many channels."""
    found, plain = [], StackedNetwork.forward

    def forward(self, images):
        found.append((isinstance(images, Broadcast), images.shape[1]))
        return plain(self, images)

    monkeypatch.setattr(StackedNetwork, "forward", forward)
    return found


@pytest.mark.parametrize(
    ("words", "common"),
    [
        (("regularization=[dropout]",), NOISE),
        (("regularization=[gaussian_noise,batchnorm]",), NOISE),
        (("regularization=[gaussian_noise]", "augmentation=[flip,crop]", "accumulate=2"), NOISE),
        ((*SMALL_CONV, "regularization=[dropout,batchnorm,mixup]"), NOISE),
        (
            (
                *SMALL_CONV,
                "model.channels=[8]",
                "model.hidden=32",
                "regularization=[gaussian_noise,groupnorm]",
                "channels_last=true",
            ),
            NOISE,
        ),
        (("model._target_=runner.model.resnet.ResNet", "~model.hidden", "+model.depth=8"), NOISE),
        ((*SMALL_CONV, "regularization=[weight_standardization,layernorm]"), BATCHES),
        (("regularization=[gaussian_noise,dropconnect]",), BATCHES),
    ],
)
def test_equal_to_each_alone(words, common, entrances):
    """Losses, weights, statistics and optimizers' states are those that each run has by itself."""
    data = splits(train=32, side=16)
    alone, together = ([doubled("log.every=100", *words, *one.split(), data=data) for one in EACH] for _ in range(2))
    compare(alone, seated(together, common=common), 4)
    assert all(entrance == (True, 1) for entrance in entrances[-4:])
    for one, other in zip(alone, together):
        assert torch.equal(one.noise.get_state(), other.noise.get_state())


@pytest.mark.parametrize(("common", "count"), [(NOISE, 1), (BATCHES, 4)])
def test_noise_on_the_images_is_drawn_once(common, count, monkeypatch):
    """For all whose draws are the same, else for each."""
    words, data = ("regularization=[gaussian_noise]",), splits()
    runs = seated([make(*words, *one.split(), data=data) for one in EACH], common=common)
    program = train_together(runs, 1)
    asked, plain = [], GaussianNoise.forward
    monkeypatch.setattr(GaussianNoise, "forward", lambda self, x: asked.append(self) or plain(self, x))
    train_together(runs, 1, program)
    assert len(asked) == count


@pytest.mark.parametrize("common", [BATCHES, NOISE])
def test_heads_on_kept_features(common, entrances):
    """squeezenet's head begins with dropout on what was kept: eight numbers wide it is one convolution."""
    runs = [[on_features(*one.split(), "precision=fp32", model=SQUEEZENET)[0] for one in EACH] for _ in range(2)]
    compare(runs[0], seated(runs[1], common=common), 3, rtol=1e-4, atol=1e-6)
    assert all(entrance == (True, 512) for entrance in entrances[-3:])


@pytest.mark.parametrize("words", [("model.hidden=[128]", "regularization=[gaussian_noise,dropout]"), SMALL_CONV])
def test_numbers_do_not_depend_on_who_is_left(words, entrances):
    """A run alone in its program, one among four, one whose mates end one by one: bit for bit alike, and all given
    their images once."""
    data = splits(train=256, classes=10)
    words = ("epochs=20", "batch_size=64", *words)

    def some():
        return seated([make(*words, *one.split(), data=data) for one in EACH], common=NOISE)

    lone, among, left = some()[1:2], some(), some()
    train_together(lone, 12)
    train_together(among, 12)
    program = train_together(left, 4)
    left[0].dropped = True
    train_together(left, 4, program)
    left[2].dropped = left[3].dropped = True
    train_together(left, 4, program)
    assert [entrance for entrance in entrances if entrance[0]].count((True, 1)) >= 36
    for one, other in zip(states(lone + left[1:2]), states(among[1:2] * 2)):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_who_is_ahead_waits():
    """After a kill some had saved a later step than others: these catch up first, and all end bit for bit as if nothing
    had happened."""
    words = ("epochs=20", "regularization=[gaussian_noise,batchnorm,dropout]", "augmentation=[crop]", "batch_size=64")
    words, data = (*words, "model.hidden=[128]"), splits(train=256, classes=10)

    def some():
        return seated([make(*words, *one.split(), data=data) for one in EACH], common=NOISE)

    whole, killed, again = some(), some(), some()
    train_together(whole, 9)
    program = train_together(killed, 3)
    for run, new in zip(killed[:2], again[:2]):
        new.load_state_dict(copy.deepcopy(run.state_dict()))
    train_together(killed, 3, program)
    for run, new in zip(killed[2:], again[2:]):
        new.load_state_dict(copy.deepcopy(run.state_dict()))
    program = FusedProgram(again)
    steps = []
    while any(run.progress.step < 9 for run in again):
        due = program.due(again)
        steps.append(len(due))
        step(due, program)
    assert steps == [2, 2, 2, 4, 4, 4]
    for one, other in zip(states(whole), states(again)):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(Slot(*run.state_dict()["seat"]) == Slot(row, 4, NOISE) for row, run in enumerate(again))


@pytest.mark.parametrize(
    ("words", "common"),
    [
        (("lr_scale=1,2", "seed=0,1"), {0}),
        (("lr_scale=1,2", "seed=0,1", "hydra.launcher.fuse_max=2"), {NOISE}),
        (("optimizer.weight_decay=0,0.1", "optimizer=sgd,adam"), {NOISE}),
        (("regularization=[dropout]", "regularization.dropout.p=0.1,0.2"), {BATCHES}),
        (("regularization=[mixup]", "regularization.mixup.alpha=0.1,0.2"), {0}),
        (("augmentation=[],[flip]",), {0}),
        (("data.limit=100,200",), {0}),
    ],
)
def test_a_plan_says_what_runs_have_in_common(words, common, cli):
    """Before the first step, so that a run which goes on later computes the same; and a sweep's numbers are those of
    the same sweep one by one."""
    sweep = ("-m", "model=mlp", "model.hidden=[8]", "epochs=2", "threads=1", "hydra.launcher.workers=0", *words)
    assert cli(*sweep, "name=together", "hydra.launcher.fuse=true")[0] == 0
    (plan,) = json.loads(Path("outputs/together/plan.json").read_text())["plans"]
    assert {run["seat"][3] for run in plan["runs"]} == common
    assert cli(*sweep, "name=apart", "hydra.launcher.fuse=false")[0] == 0
    together, apart = (results_of(Path(f"outputs/{name}")).values() for name in ("together", "apart"))
    wanted = sorted(one["val_loss"] for one in apart)
    assert sorted(one["val_loss"] for one in together) == pytest.approx(wanted, rel=1e-4)


def test_heads_on_kept_features_are_tried_together_though_they_are_short(cli):
    """Their epochs are few steps; other runs of so few are left alone."""
    words = ("-m", "epochs=2", "optimizer=sgd,adam", "data.limit=1000", "hydra.launcher.workers=0", "dry_run=true")
    head = ("transfer.freeze_depth=all", "transfer.cache=true")
    code, out, _ = cli(*words, "sweep.probe=false", *head)
    assert code == 0 and "2 runs in one program: a trial at their start decides" in out
    code, out, _ = cli(*words, "sweep.probe=false")
    assert code == 0 and "2 alone: fewer than 100 steps" in out
