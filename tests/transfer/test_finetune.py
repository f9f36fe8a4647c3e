"""Fine-tuning: frozen stages, rates by stage, gradual unfreezing."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from runner.execution.eager import EagerProgram
from runner.train.loop import train
from runner.transfer.finetune import Finetune, broken_seals
from tests.shared.results import result_of
from tests.shared.training import make, numbers
from tests.shared.transfer import DIGITS, NET, NORM, STAGES, network, saved, values


def of(stages, names):
    """The names that lie in some stages."""
    return [name for name in names if name.split(".")[0] in stages]


# -- frozen means frozen --------------------------------------------------------------------------------------------

DECAYING = ("optimizer=momentum", "optimizer.weight_decay=0.5", "optimizer.no_decay=false", "clip_grad_norm=1.0")


@pytest.mark.parametrize(
    ("depth", "optimizer"),
    [(depth, DECAYING) for depth in ("0", "1", "3", "all", "-1", "-3")]
    + [("2", (f"optimizer={name}",)) for name in ("adamw", "muon", "sam")],
)
def test_frozen_stages_stay_bit_for_bit(tmp_path, optimizer, depth):
    """Weights and batch-norm statistics of frozen stages, with weight decay on; no optimizer state. All others move."""
    words = (*NET, NORM, saved(tmp_path, network().state_dict()), *optimizer)
    run = make(*words, f"transfer.freeze_depth={depth}", "transfer.pretrained_lr_scale=1")
    frozen = 3 if depth == "all" else int(depth) % 4
    before = values(run)
    train([run], EagerProgram())
    after = values(run)
    still = of(STAGES[:frozen], before)
    assert bool(still) == bool(frozen) and all(torch.equal(before[name], after[name]) for name in still)
    held = {f"{stage}.bias" for stage in STAGES[:3]}  # before a batch norm: never trained
    moved = set(of(STAGES[frozen:], before)) - held
    assert all(not torch.equal(before[name], after[name]) for name in moved)
    known = dict(run.model.named_parameters())
    owned = {id(known[name]) for name in of(STAGES[:frozen], known)}
    assert not owned & ({id(p) for p in run.trained} | {id(p) for p in run.optimizer.state})
    assert not broken_seals(run.model, {name: before[name] for name in still})


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_frozen_norms_keep_their_statistics_or_follow(tmp_path, mode):
    """`frozen_norm=train` moves the statistics of frozen stages, never their weights."""
    words = (saved(tmp_path, network().state_dict()), "transfer.freeze_depth=1", f"transfer.frozen_norm={mode}")
    run = make(*NET, NORM, *words)
    before, seal = values(run), run.transfer.seal(run.model, 2)
    train([run], EagerProgram())
    after = values(run)
    assert torch.equal(before["conv1.norm.running_mean"], after["conv1.norm.running_mean"]) == (mode == "eval")
    assert torch.equal(before["conv1.norm.weight"], after["conv1.norm.weight"])
    assert ("conv1.norm.running_mean" in seal) == (mode == "eval") and "conv1.norm.weight" in seal
    assert {name.split(".")[0] for name in seal} == {"conv1"}
    assert not broken_seals(run.model, seal)
    assert [row.norm for row in run.transfer.table(run.model)] == [mode, "train", "train", "-"]


def test_what_a_network_keeps_fixed_itself_stays_fixed():
    """Freezing never thaws a parameter that the network's author froze."""

    def author(parts):
        parts.model.conv2.weight.requires_grad_(False)
        parts.transfer.prepare(parts.model)

    run = make(*NET, prepare=author)
    before = values(run)
    train([run], EagerProgram())
    assert torch.equal(before["conv2.weight"], run.model.conv2.weight)
    assert not torch.equal(before["conv2.bias"], run.model.conv2.bias)
    rows = {row.stage: row for row in run.transfer.table(run.model)}
    assert (rows["conv2"].parameters, rows["conv2"].trainable) == (4 * 4 * 9 + 4, 4)


def test_a_seal_tells_every_changed_tensor():
    """Statistics, weights, and a change of a single bit."""
    run = make(*NET, NORM, "transfer.freeze_depth=2")
    seal = run.transfer.seal(run.model, 2)
    assert broken_seals(run.model, seal) == []
    with torch.no_grad():
        run.model.conv1.norm.running_var[0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
        run.model.conv2.weight[0, 0, 0, 0] += 1
        run.model.head.weight += 1
    assert broken_seals(run.model, seal) == ["conv1.norm.running_var", "conv2.weight"]


def _forgetful(self, model, epoch):
    model.train()  # every norm, the frozen ones too


def test_a_planted_violation_fails_the_run(cli, monkeypatch):
    """Frozen norms that are put into train mode on purpose: the run ends as failed, and says which tensors changed."""
    words = (*DIGITS, NORM, "transfer.freeze_depth=1")
    assert cli(*words)[0] == 0 and result_of(Path("outputs/runs"))["status"] == "done"
    monkeypatch.setattr(Finetune, "train_mode", _forgetful)
    assert cli(*words, "name=planted")[0] == 1
    result = result_of(Path("outputs/planted"))
    assert result["status"] == "failed" and result["test_accuracy"] is None
    assert "frozen, and yet it changed: conv1.norm.running_mean, conv1.norm.running_var" in result["reason"]


# -- rates ----------------------------------------------------------------------------------------------------------


def rates(run):
    """Parameter -> learning rate, as the optimizer has it."""
    by_id = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    return {name.split(".")[0]: by_id[id(p)] for name, p in run.model.named_parameters() if id(p) in by_id}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("pretrained_lr_scale=0.1",), (0.1, 0.1, 0.1, 1)),
        (("pretrained_lr_scale=1", "layer_decay=0.5"), (0.125, 0.25, 0.5, 1)),
        (("pretrained_lr_scale=1", "head_lr_scale=10"), (1, 1, 1, 10)),
        (("pretrained_lr_scale=0.2", "layer_decay=0.5", "head_lr_scale=3"), (0.025, 0.05, 0.1, 3)),
        (("pretrained_lr_scale=0.2", "layer_decay=0.5", "freeze_depth=2"), (0.1, 1)),
    ],
)
def test_rates_of_stages(tmp_path, words, wanted):
    """The optimizer's rate times `layer_decay` a stage, times the scales of what came and of the head."""
    weights = saved(tmp_path, network(classes=5).state_dict())
    run = make(*NET, weights, "optimizer.lr=0.3", "lr_scale=0.5", *(f"transfer.{word}" for word in words))
    found = rates(run)
    assert found == pytest.approx({stage: 0.15 * x for stage, x in zip(STAGES[-len(wanted) :], wanted)})
    rows = run.transfer.table(run.model)
    assert [row.rate for row in rows if row.rate is not None] == pytest.approx(wanted)


def test_stages_that_did_not_come_move_at_the_full_rate(tmp_path):
    """Without weights nothing is scaled; a head is, where all of it came; a stage is, where any of it came."""
    state = network().state_dict()
    assert set(rates(make(*NET)).values()) == {0.1}
    assert rates(make(*NET, saved(tmp_path, state))) == pytest.approx(dict.fromkeys(STAGES, 0.01))
    del state["hidden.weight"], state["hidden.bias"], state["conv2.bias"], state["head.bias"]
    found = rates(make(*NET, saved(tmp_path, state)))
    assert found == pytest.approx({"conv1": 0.01, "conv2": 0.01, "hidden": 0.1, "head": 0.1})


def test_rates_move_the_weights(tmp_path):
    """The first step of plain descent is rate times gradient, stage by stage."""
    words = (*NET, saved(tmp_path, network(classes=5).state_dict()), "transfer.layer_decay=0.5")
    run, plain = make(*words), make(*words, "transfer.layer_decay=1", "transfer.pretrained_lr_scale=1")
    steps = []
    for one in (run, plain):
        before = values(one)
        one.steps = 1
        train([one], EagerProgram())
        steps.append({name: value - before[name] for name, value in values(one).items()})
    for stage, scale in zip(STAGES, (0.0125, 0.025, 0.05, 1)):
        torch.testing.assert_close(
            steps[0][f"{stage}.weight"], scale * steps[1][f"{stage}.weight"], rtol=1e-3, atol=1e-6
        )


# -- gradual unfreezing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "counts"), [(1, [3, 2, 1, 0, 0]), (2, [3, 3, 2, 2, 1])])
def test_stages_thaw_one_by_one_the_last_first(tmp_path, every, counts):
    """Each `every` epochs one more stage moves; what is frozen in an epoch does not change in it, its norms neither."""
    words = (*NET, NORM, saved(tmp_path, network().state_dict()), *DECAYING, "epochs=5")
    run = make(*words, "transfer=gradual", f"transfer.unfreeze.every={every}")
    states = [values(run)]
    run.on_epoch = lambda row: states.append(values(run))
    train([run], EagerProgram())
    for (before, after), frozen in zip(zip(states, states[1:]), counts, strict=True):
        changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert changed == set(STAGES[frozen:])
    seal = run.transfer.seal(run.model, 5)
    assert {name.split(".")[0] for name in seal} == set(STAGES[: counts[-1]])


@pytest.mark.parametrize("stop", [4, 7, 8])  # steps, three an epoch: in the middle of epochs, and at the end of none
def test_gradual_unfreezing_resumes_exactly(tmp_path, stop):
    """A run that is interrupted and goes on ends bit for bit as one that was not."""
    weights = saved(tmp_path, network().state_dict())
    words = (*NET, NORM, weights, *DECAYING, "epochs=4", "transfer=gradual", "log.every=1")
    whole, first, second = (make(*words) for _ in range(3))
    train([whole], EagerProgram())
    end, first.steps = first.steps, stop
    train([first], EagerProgram())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.steps == end
    train([second], EagerProgram())
    wanted = values(whole)
    assert all(torch.equal(value, wanted[name]) for name, value in values(second).items())
    assert numbers(whole.progress.history) == numbers(second.progress.history)


# -- L2-SP ----------------------------------------------------------------------------------------------------------


def test_a_module_of_weights_is_left_alone():
    """`prepare` without weights changes nothing of a network in training."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    Finetune().prepare(model)
    assert all(p.requires_grad for p in model.parameters())
