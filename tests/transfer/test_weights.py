"""Transfer: what is loaded and said of it, what is frozen and stays so, how fast the rest moves."""

import copy
import json
import logging
import pickle
import shutil
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import conv2d

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.execution.eager import EagerProgram
from runner.store import checkpoint
from runner.store.fingerprint import fingerprints
from runner.task.resources import Resources
from runner.train.loop import train
from runner.transfer import read_weights
from runner.transfer.finetune import Finetune, broken_seals
from runner.transfer.read_weights import read
from runner.transfer.weights import channels
from tests.shared.configs import composed
from tests.shared.results import result_of
from tests.shared.training import make, numbers
from tests.shared.transfer import NET, network

STAGES = ("conv1", "conv2", "hidden", "head")
NORM = "regularization=[batchnorm]"
DIGITS = (*NET, "data.limit=80", "epochs=1", "log.tensorboard=false", "transfer.cache=false")


def saved(folder, state, name="weights.pth"):
    """The override that names a file with these tensors."""
    torch.save(state, folder / name)
    return f"transfer.weights={folder / name}"


def finished(folder, state, classes=("a", "b", "c"), members=None, mean=(0.4,), std=(0.25,)):
    """The override that names a finished run with these tensors."""
    folder.mkdir(parents=True)
    about = {"config": {}, "classes": classes, "channels": len(mean), "size": 8, "mean": mean, "std": std}
    members = [state] if members is None else members
    checkpoint.save(folder / checkpoint.FILE, {"about": json.dumps(about), "members": members or None})
    return f"transfer.weights={folder}"


def values(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def of(stages, names):
    """The names that lie in some stages."""
    return [name for name in names if name.split(".")[0] in stages]


def refusal(*overrides):
    """The line that a combination is refused with."""
    with pytest.raises((ConfigError, Refused)) as caught:
        Resources().preflight(check(composed(*(() if overrides[0].startswith("model=") else NET), *overrides)))
    lines = caught.value.lines if isinstance(caught.value, Refused) else [str(caught.value)]
    assert len(lines) == 1 and "\n" not in lines[0]
    return lines[0]


# -- what is loaded, and what is said of it -------------------------------------------------------------------------


def test_the_audit_tells_what_became_of_every_tensor(tmp_path):
    """Loaded, of another shape, not in the file, not in the network: each tensor is in one list, and in the values."""
    state = network(classes=5).state_dict()
    del state["hidden.bias"]
    state["extra.weight"] = torch.ones(2)
    run, fresh = make(*NET, saved(tmp_path, state)), values(make(*NET))
    audit, found = run.transfer.audit, values(run)
    assert audit.loaded == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "hidden.weight"}
    assert audit.unfit == {
        "head.weight": "[5, 8] in the file, [3, 8] here",
        "head.bias": "[5] in the file, [3] here",
    }
    assert (audit.missing, audit.unused, audit.adapted) == (["hidden.bias"], ["extra.weight"], {})
    for name, value in found.items():
        assert torch.equal(value, state[name] if name in audit.loaded else fresh[name])
    assert audit.line == (
        "5 tensors from weights.pth; new: head.weight, head.bias, hidden.bias; not used: extra.weight"
    )


def test_the_same_number_of_classes_keeps_a_files_head(tmp_path):
    """A file says nothing of its classes: a head that fits is taken."""
    state = network().state_dict()
    found = values(make(*NET, saved(tmp_path, state)))
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_other_classes_of_a_run_get_a_new_head(tmp_path):
    """A run knows its classes: the rows for others start anew, as many as they are; those for the same ones stay."""
    state, fresh = network().state_dict(), values(make(*NET))
    other = make(*NET, finished(tmp_path / "other", state, ("a", "b", "x")))
    assert other.transfer.audit.unfit == {"head.weight": "other classes", "head.bias": "other classes"}
    assert torch.equal(values(other)["head.weight"], fresh["head.weight"])
    assert torch.equal(values(other)["hidden.weight"], state["hidden.weight"])
    same = make(*NET, finished(tmp_path / "same", state))
    assert torch.equal(values(same)["head.weight"], state["head.weight"]) and not same.transfer.audit.unfit


@pytest.mark.parametrize(("have", "count"), [(3, 1), (1, 3), (3, 4), (3, 2), (3, 6), (4, 3)])
def test_an_adapted_kernel_answers_grey_images_as_before(have, count):
    """Summed to fewer channels, shared out among more: images whose channels are equal get the same answer."""
    draws = torch.Generator().manual_seed(0)
    kernel, grey = torch.randn(5, have, 3, 3, generator=draws), torch.randn(2, 1, 8, 8, generator=draws)
    found = channels(kernel, count)
    assert found.shape == (5, count, 3, 3)
    wanted = conv2d(grey.expand(-1, have, -1, -1), kernel)
    torch.testing.assert_close(conv2d(grey.expand(-1, count, -1, -1), found), wanted)


def test_a_first_layer_is_adapted_and_said_so(tmp_path):
    """Weights for three channels in a network for one."""
    state = network(in_channels=3).state_dict()
    run = make(*NET, saved(tmp_path, state))
    assert run.transfer.audit.adapted == {"conv1.weight": "adapted from 3 channels to 1"}
    assert "conv1.weight adapted from 3 channels to 1" in run.transfer.audit.line
    found = values(run)["conv1.weight"].numpy()
    np.testing.assert_allclose(found, state["conv1.weight"].numpy().sum(1, keepdims=True), rtol=1e-6)


def test_only_the_first_layer_is_adapted(tmp_path):
    """Another width further in is another network: those layers stay new."""
    state = network().state_dict()
    state["conv2.weight"] = torch.zeros(4, 6, 3, 3)
    audit = make(*NET, saved(tmp_path, state)).transfer.audit
    assert audit.unfit == {"conv2.weight": "[4, 6, 3, 3] in the file, [4, 4, 3, 3] here"} and not audit.adapted


def test_tensors_of_the_stack_come_too(tmp_path):
    """The batch norms of a run with `regularization=[batchnorm]` go into those of a run with the same stack."""
    state = values(make(*NET, NORM))
    state["conv1.norm.running_mean"] += 3
    run = make(*NET, NORM, saved(tmp_path, state), "transfer.freeze_depth=1")
    assert run.transfer.audit.unused == [] and "conv1.norm.running_mean" in run.transfer.audit.loaded
    assert torch.equal(values(run)["conv1.norm.running_mean"], state["conv1.norm.running_mean"])
    without = make(*NET, saved(tmp_path, state)).transfer.audit
    assert "conv1.norm.running_mean" in without.unused


@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_wrapped_and_prefixed_files_are_read(tmp_path, wrap):
    """A `state_dict` inside of a training script's checkpoint, the names of `DataParallel`."""
    state = network().state_dict()
    told = {f"module.{name}": value for name, value in state.items()}
    found = values(make(*NET, saved(tmp_path, {wrap: told, "epoch": 3} if wrap else told)))
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_safetensors_are_read(tmp_path):
    """The same tensors come out of a .safetensors file."""
    state = network().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    found = values(make(*NET, f"transfer.weights={tmp_path / 'weights.safetensors'}"))
    assert all(torch.equal(found[name], state[name]) for name in state)


class _Planted:
    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def test_a_pickle_with_code_does_not_run(tmp_path):
    """A file that would run code is refused in a line, and the code is not run."""
    mark = tmp_path / "mark"
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Planted(str(mark))))
    torch.save({"conv1.weight": _Planted(str(mark))}, tmp_path / "zip.pth")
    for name in ("bare.pth", "zip.pth"):
        line = refusal(f"transfer.weights={tmp_path / name}")
        assert "nothing of it was run" in line and name in line and "save the state_dict alone" in line
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path, name, kept):
    """Cut short anywhere, a file is refused in a line that names it."""
    state, path = network().state_dict(), tmp_path / name
    torch.save(state, path) if name.endswith("pth") else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ConfigError, match="damaged") as caught:
        read(str(path), {})
    assert str(caught.value).startswith(f"transfer.weights={path}: ")


def test_files_without_weights_are_refused(tmp_path):
    """Another architecture, no mapping at all, names that do not exist."""
    other = {"layer1.0.conv1.weight": torch.ones(4, 4)}
    line = refusal(saved(tmp_path, other))
    assert "nothing of weights.pth fits this model" in line and "layer1.0.conv1.weight" in line
    assert "conv1.weight" in line and "choose the model" in line
    counter = {"bn1.num_batches_tracked": torch.tensor(5)}  # of every network with such a norm: no weight
    assert "nothing of" in refusal("model=resnet18", saved(tmp_path, counter))
    for state in ([torch.ones(2)], {"epoch": 3}, {}, torch.ones(2)):
        assert "holds no mapping of names to tensors" in refusal(saved(tmp_path, state))
    assert "no such file or folder" in refusal("transfer.weights=nowhere.pth")
    line = refusal("model=squeezenet1_1", "transfer.weights=imagenet_v1", "data.limit=20")
    assert "squeezenet1_1 has the weights default, IMAGENET1K_V1" in line


def test_weights_that_cannot_be_fetched_are_asked_for_once(monkeypatch):
    """Without a network a sweep waits for one attempt, not for one a combination; each is refused."""
    asked = []

    def fetch(url, **options):
        asked.append(url)
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    read_weights._fetched.cache_clear()
    for _ in range(2):
        assert "cannot be fetched (<urlopen error no network>); give the path" in refusal(
            "model=squeezenet1_1", "transfer.weights=default", "data.limit=20"
        )
    read_weights._fetched.cache_clear()
    assert len(asked) == 1


def test_folders_that_are_no_finished_run_are_refused(tmp_path):
    """No run, one that is not finished, an ensemble, several runs; the only run of a folder is taken."""
    state = network().state_dict()
    (tmp_path / "empty").mkdir()
    assert "a folder without checkpoint.pt" in refusal(f"transfer.weights={tmp_path / 'empty'}")
    assert "not finished" in refusal(finished(tmp_path / "open", state, members=[]))
    assert "an ensemble of 2 networks" in refusal(finished(tmp_path / "two", state, members=[state, state]))
    finished(tmp_path / "runs" / "only", state)
    folder = f"transfer.weights={tmp_path / 'runs'}"
    assert torch.equal(values(make(*NET, folder))["hidden.weight"], state["hidden.weight"])
    finished(tmp_path / "runs" / "second", state)
    line = refusal(folder)
    assert "2 runs are in this folder" in line and f"\"transfer.weights='{tmp_path / 'runs' / 'only'}'\"" in line


def test_the_checkpoint_of_a_run_is_as_good_as_its_folder(tmp_path):
    """Named as a file, it is read as the run that it is, checksum and all."""
    finished(tmp_path / "run", network().state_dict())
    path = tmp_path / "run" / checkpoint.FILE
    assert read(str(path), {}).classes == ("a", "b", "c")
    assert read(str(path), {}).digest == read(str(path.parent), {}).digest
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "checksum" in refusal(f"transfer.weights={path.parent}")


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


# -- L2-SP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["[l2_sp]", "[l2_sp,dropconnect,batchnorm]", "[dropconnect,batchnorm,l2_sp]"])
def test_l2_sp_against_its_formula(tmp_path, stack):
    """weight / 2 x squared distance from what came, head_weight / 2 x squares of the head; no biases, no norms."""
    state = network(classes=5).state_dict()
    keys = ("regularization.l2_sp.weight=0.3", "regularization.l2_sp.head_weight=0.7")
    run = make(*NET, saved(tmp_path, state), f"regularization={stack}", *keys, "transfer.freeze_depth=1")
    item, model = run.parts.stack["l2_sp"], run.model.eval()
    head = model.head.weight.detach().double().numpy()
    assert item.penalty(model).item() == pytest.approx(0.35 * np.square(head).sum(), rel=1e-5)
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p += 0.01 * number
    found = item.penalty(model)
    found.backward()
    wanted = 0.35 * np.square(model.head.weight.detach().double().numpy()).sum()
    for stage in STAGES[1:3]:  # the first is frozen
        moved = model.get_submodule(stage).weight.detach().double().numpy() - state[f"{stage}.weight"].double().numpy()
        wanted += 0.15 * np.square(moved).sum()
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert all(p.grad is None for p in model.parameters() if p.ndim < 2) and "l2_sp" in run.penalties
    assert copy.deepcopy(item).penalty(copy.deepcopy(model)).item() == found.item()


def test_l2_sp_keeps_weights_near_their_start(tmp_path):
    """The larger its weight, the shorter the way; `l2` pulls toward zero instead."""
    words = (*NET, saved(tmp_path, network(classes=5).state_dict()), "transfer.pretrained_lr_scale=1", "epochs=3")

    def way(*more):
        run = make(*words, *more)
        before = values(run)["hidden.weight"]
        train([run], EagerProgram())
        return (run.model.hidden.weight - before).norm().item()

    free, near, nearer = (
        way(*more)
        for more in (
            (),
            ("regularization=[l2_sp]", "regularization.l2_sp.weight=1"),
            ("regularization=[l2_sp]", "regularization.l2_sp.weight=8"),
        )
    )
    assert free > near > nearer
    assert way("regularization=[l2]", "regularization.l2.weight=1") > free


def test_l2_sp_needs_weights(tmp_path):
    """Nothing came: one line, with two ways out."""
    line = "regularization=[l2_sp]: no weights came to stay near to; set transfer.weights, or use l2 in its place"
    assert refusal("regularization=[l2_sp]") == line
    weights = saved(tmp_path, network(classes=10).state_dict())
    assert refusal("regularization=[l2_sp]", "transfer=scratch", weights) == line
    Resources().preflight(check(composed(*NET, "regularization=[l2_sp]", weights)))


def test_a_module_of_weights_is_left_alone():
    """`prepare` without weights changes nothing of a network in training."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    Finetune().prepare(model)
    assert all(p.requires_grad for p in model.parameters())
