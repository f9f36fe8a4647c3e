"""Norms in runs: stacks train, micro-batches, resuming and copies."""

import copy
import math

import pytest
import torch
from torch.nn.functional import conv2d

from runner.build.check import check
from runner.execution.eager import EagerProgram
from runner.regularization.batchnorm import BatchNorm
from runner.regularization.dropout import Dropout
from runner.store import checkpoint
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.configs import composed
from tests.shared.norms import CONVNET, KEYS, NORMS, images, networks
from tests.shared.training import make, numbers, trained


def small(item):
    """The words that fit the item to the small network."""
    return tuple(f"regularization.{item}.{key}={value}" for key, value in KEYS.get(item, {}).items())


# -- in runs --------------------------------------------------------------------------------------------------------

STACKS = [
    *[[name] for name in (*NORMS, "weight_standardization", "max_norm")],
    ["batchnorm", "dropout"],
    ["dropout", "batchnorm"],
    ["weight_standardization", "groupnorm"],
    ["groupnorm", "weight_standardization"],
    ["weight_standardization", "ghost_batchnorm", "max_norm"],
    ["max_norm", "l2"],
    ["layernorm", "l2", "dropout"],
]


def words(stack):
    return (*CONVNET, f"regularization=[{','.join(stack)}]", *(word for item in stack for word in small(item)))


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
@pytest.mark.parametrize(
    "more", [(), ("precision=bf16", "channels_last=true", "accumulate=3")], ids=["plain", "bf16-accumulate"]
)
def test_stacks_train(stack, more):
    """Steps with the item or the stack move every parameter and end in finite numbers, validation included."""
    run = make(*words(stack), *more)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run = trained(*words(stack), *more)
    assert run.progress.step == 3 and run.model.training
    row = run.progress.history[-1]
    assert math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])
    after = dict(run.model.named_parameters())
    assert after.keys() == before.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("stack", [s for s in STACKS if s != ["max_norm"]], ids="+".join)
def test_stacks_can_be_rehearsed(stack):
    """On the meta device too: the stack is accepted."""
    Resources().preflight(check(composed("data.limit=200", *words(stack))))


@pytest.mark.parametrize("name", [*NORMS, "weight_standardization"])
def test_item_changes_training(name):
    """A run with the item has other losses than one without."""
    plain, found = trained(*CONVNET), trained(*words([name]))
    assert numbers(plain.progress.history) != numbers(found.progress.history)
    assert plain.progress.history[0]["val_loss"] != pytest.approx(found.progress.history[0]["val_loss"], rel=1e-3)


@pytest.mark.parametrize("order", [["dropout", "batchnorm"], ["batchnorm", "dropout"]], ids="+".join)
def test_dropout_and_batch_norm(order):
    """In either order the layer reads dropped activations, and its output is normalized."""
    items = {"dropout": Dropout(0.5), "batchnorm": BatchNorm()}
    model, seen = networks()["mlp"], {}
    for name in order:
        items[name].modify(model, torch.Generator().manual_seed(0))
    model.linear2.register_forward_hook(lambda layer, x, y: seen.update(x=x[0], y=y))
    model.train()(images(64))
    assert (seen["x"] == 0).double().mean() > 0.6  # dropped, or zero by the ReLU
    torch.testing.assert_close(seen["y"].mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    assert Dropout(where="head").places(model) == ["head"]


def test_micro_batches_have_statistics_of_their_own():
    """With `accumulate` a batch norm sees the micro-batches, one after the other."""
    run = make(*words(["batchnorm"]), "accumulate=2")
    run.model.train()
    batch = run.next_batch()
    mean = torch.zeros(4)
    for part in batch.images.tensor_split(2):
        plain = conv2d(part, run.model.conv1.weight, run.model.conv1.bias, padding=1)
        mean = 0.9 * mean + 0.1 * plain.mean((0, 2, 3))
    for part in batch.split(2):
        run.loss(part)
    torch.testing.assert_close(run.model.conv1.norm.running_mean, mean.detach())


@pytest.mark.parametrize("name", ["batchnorm", "ghost_batchnorm", "groupnorm", "weight_standardization"])
def test_goes_on_bit_for_bit(tmp_path, name):
    """A run saved in the middle of an epoch and loaded by a new one ends with the same bits, running ones included."""
    more = (*words([name]), "epochs=2", "log.every=2", "optimizer=adam", "optimizer.lr=0.01")
    path = tmp_path / checkpoint.FILE
    whole, resumed = make(*more), make(*more)
    whole.on_pause = lambda run: checkpoint.save(path, run.state_dict()) if run.progress.step == 2 else None
    train([whole], EagerProgram())
    state = checkpoint.load(path)
    assert ("conv1.norm.running_mean" in state["model"]) == ("batch" in name)
    resumed.load_state_dict(state)
    train([resumed], EagerProgram())
    ends = resumed.model.state_dict()
    assert all(torch.equal(ends[key], value) for key, value in whole.model.state_dict().items())
    assert numbers(resumed.progress.history) == numbers(whole.progress.history)


@pytest.mark.parametrize("name", [*NORMS, "weight_standardization"])
def test_deep_copies_are_whole(name):
    """A copy gives the same logits and is independent: training it leaves the original alone."""
    run = make(*words([name]))
    model, x = run.model, images()
    twin = copy.deepcopy(model)
    assert torch.equal(twin.train()(x), copy.deepcopy(model).train()(x))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.add_(1)
    twin.train()(x)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    before = model.eval()(x)
    assert torch.equal(model(x), before) and not torch.allclose(twin.eval()(x), before)
