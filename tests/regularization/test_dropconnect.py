"""DropConnect: masks in training passes, places, refusals, and how networks train."""

import copy
import math

import pytest
import torch
from torch import nn

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.stages import stage_parameters
from runner.model.torchvision_model import build as torchvision_model
from runner.regularization.base import weights
from runner.regularization.dropconnect import DropConnect, WeightMask, variance_of
from runner.regularization.gaussian_noise import GaussianNoise
from runner.regularization.l2 import L2
from runner.store import checkpoint
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.noise_weights import NETWORKS, PASSES, agree, convolution, linear, lone, network
from tests.shared.training import CPU, numbers, splits
from tests.shared.training import weights as values

# -- dropconnect while training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "where", "p"), [(linear, "linear", 0.2), (convolution, "conv", 0.5)])
@torch.no_grad()
def test_dropconnect_expectation(made, where, p):
    """The mean of 20,000 training passes through a layer is its test pass, in float64, for all outputs together; the
    variance of the passes is `(W o W)(x o x) p / (1 - p)`."""
    layer, x = made()
    model = lone(layer, DropConnect(p, where), seeded(1))
    passes = torch.cat([layer(x) for _ in range(PASSES)])
    test = model.eval()(x)[0]
    variance = variance_of(layer, x)[0]
    assert agree(passes.mean(0), test, variance.sqrt())
    squares = (passes - test).square()
    assert agree(squares.mean(0), variance, squares.std(0))
    bias = layer.bias.view(-1, *[1] * (test.ndim - 1))
    assert not agree((1 - p) * (test - bias) + bias, test, variance.sqrt())  # the bound would see a forgotten factor
    assert not agree(passes.mean(0) - bias * p, test, variance.sqrt())  # and a dropped bias


def test_dropconnect_masks():
    """A share p of the weights, each on its own, is zero; kept ones are divided by 1 - p, and so are gradients."""
    weight = torch.ones(400, 500, requires_grad=True)
    y = WeightMask(0.3, seeded(2))(weight)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    zeros = (y == 0).double()
    assert abs(zeros.mean().item() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / y.numel())
    for axis in (0, 1):  # no whole row or column shares a draw
        assert 0.5 < zeros.mean(axis).std().item() / math.sqrt(0.3 * 0.7 / y.shape[axis]) < 1.5
    y.sum().backward()
    assert torch.equal(weight.grad, y.detach())


def test_one_mask_for_a_batch():
    """All images of a pass share one mask; the next pass has another."""
    layer, x = linear()
    model = lone(layer, DropConnect(), seeded())
    first, second = model(x.expand(8, -1)), model(x.expand(8, -1))
    assert torch.equal(first, first[:1].expand(8, -1)) and not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("name", "where", "dropped"),
    [
        ("mlp", "linear", ["linear2", "head"]),
        ("mlp", "head", ["head"]),
        ("convnet", "conv", ["conv2"]),
        ("convnet", "linear", ["hidden", "head"]),
        ("resnet20", "head", ["head"]),
        ("mlp", "all", ["linear1", "linear2", "head"]),
        ("convnet", "all", ["conv1", "conv2", "hidden", "head"]),
    ],
)
def test_dropconnect_places(name, where, dropped):
    """Weights are dropped in the layers that `where` names, in no others; biases and norms never are."""
    model = network(name)
    DropConnect(where=where).modify(model, seeded())
    model.train()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert [n for n, layer in layers.items() if (layer.weight == 0).any()] == dropped
    assert not any(
        (layer.bias == 0).any() for layer in layers.values() if layer.bias is not None and name != "resnet20"
    )


def test_dropconnect_in_every_later_convolution():
    """`conv` on ResNet-20 drops weights of all 19 convolutions but the first."""
    model = network("resnet20")
    DropConnect(where="conv").modify(model, seeded())
    assert sum(isinstance(module, WeightMask) for module in model.modules()) == 18


def test_dropconnect_draws_from_its_own_generator():
    """Training passes repeat with the generator's seed; surgery draws nothing; torch's own stream is left alone."""
    passes = []
    for seed in (5, 5, 6):
        model, draws = network("convnet"), seeded(seed)
        before = draws.get_state()
        DropConnect(where="conv").modify(model, draws)
        assert torch.equal(before, draws.get_state())
        torch.manual_seed(len(passes))
        state = torch.get_rng_state()
        passes.append(model.train()(torch.ones(4, 1, 8, 8)))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(passes[0], passes[1]) and not torch.equal(passes[0], passes[2])


def test_later_surgery_draws_nothing():
    """Another item's parametrization, tried out when it is registered, finds the mean weights and draws nothing: the
    network is not yet on the generator's device."""
    model, draws, seen = network("convnet"), seeded(), []
    DropConnect(where="conv").modify(model, draws)

    class Later(nn.Module):
        def forward(self, weight):
            seen.append(weight.clone())
            return weight

    nn.utils.parametrize.register_parametrization(model.conv2, "weight", Later())
    assert torch.equal(seen[0], network("convnet").conv2.weight)
    assert torch.equal(draws.get_state(), seeded().get_state())
    model.train()
    assert (model.conv2.weight == 0).any()


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_dropconnect_range(p):
    """p is at least 0 and below 1."""
    with pytest.raises(ConfigError, match=f"regularization.dropconnect.p={p}: must be at least 0 and below 1"):
        DropConnect(p)


# -- dropconnect and the rest ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("model=mlp", "regularization=[dropconnect]", "regularization.dropconnect.where=conv"),
            "regularization.dropconnect.where=conv: MLP has no such layer after its first; "
            "use another of linear, conv, head, all",
        ),
        (
            ("model=mlp", "regularization=[dropconnect]", "regularization.dropconnect.inference=gaussian"),
            "regularization.dropconnect.inference=gaussian: no nonlinearity of MLP reads a layer of where=linear "
            "directly; use inference=mean",
        ),
        (
            (
                "model=convnet",
                "regularization=[dropconnect,l2,dropout]",
                "regularization.dropconnect.inference=gaussian",
            ),
            "regularization.dropconnect.inference=gaussian: dropout would change the network after it; "
            "list dropconnect last, or use inference=mean",
        ),
        (
            ("model=mlp", "regularization=[gaussian_noise]", "regularization.gaussian_noise.where=conv"),
            "regularization.gaussian_noise.where=conv: MLP has no such layer after its first; "
            "use another of input, linear, conv, head",
        ),
    ],
)
def test_refusals(words, line):
    """What finds no place in the network, or none for its test time, is refused before training, with the way out."""
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed(*words)))
    assert refused.value.lines == [line]


@pytest.mark.parametrize(
    "words",
    [
        ("model=convnet", "regularization=[dropout,dropconnect,l2,label_smoothing]"),
        ("model=convnet", "regularization=[dropconnect]", "regularization.dropconnect.where=conv"),
        ("model=resnet20", "regularization=[dropconnect]", "regularization.dropconnect.where=conv"),
        ("model=mlp", "model.hidden=[8,8]", "regularization=[dropconnect]"),
    ],
)
def test_gaussian_inference_finds_its_places(words):
    """Networks whose dropped layers are read by ReLU, directly or through a norm, are accepted."""
    Resources().preflight(check(composed(*words, "regularization.dropconnect.inference=gaussian")))


@torch.no_grad()
def test_gaussian_inference_on_a_torchvision_network():
    """ResNet-18, one in-place ReLU for two readers in each block: the first of them averages."""
    torch.manual_seed(0)
    model = torchvision_model("resnet18", in_channels=1, num_classes=3, image_size=32).eval()
    images = torch.rand(2, 1, 32, 32, generator=seeded())
    clean = model(images)
    DropConnect(0.5, "conv", "gaussian").modify(model, None)
    assert not torch.allclose(model.eval()(images), clean, rtol=1e-2)


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("item", [DropConnect(where="head"), GaussianNoise()])
def test_parameters_are_the_networks(name, item):
    """Surgery adds and hides no parameter: stages hold each once, and penalties see the raw weights."""
    model = network(name)
    before = {id(p): p for p in model.parameters()}
    matrices, penalty = {id(p) for p in weights(model)}, L2(0.1).penalty(model)
    item.modify(model, seeded())
    model.train()
    found = [p for _, named in stage_parameters(model) for _, p in named]
    assert sorted(map(id, found)) == sorted(before) == sorted(map(id, model.parameters()))
    assert {id(p) for p in weights(model)} == matrices
    torch.testing.assert_close(L2(0.1).penalty(model), penalty)


def test_names_in_the_state():
    """Dropped weights are kept under their parametrization's name, all others under their own."""
    before, model = list(network("mlp").state_dict()), network("mlp")
    DropConnect(where="head").modify(model, None)
    changed = "head.parametrizations.weight.original"
    assert set(model.state_dict()) == set(before) - {"head.weight"} | {changed}
    noisy = network("mlp")
    GaussianNoise(where="linear").modify(noisy, None)
    assert list(noisy.state_dict()) == before


STACKS = {
    "dropconnect": ("regularization=[dropconnect,l2]",),
    "gaussian": ("regularization=[l2,dropconnect]", "regularization.dropconnect.inference=gaussian"),
    "gaussian_noise": ("regularization=[gaussian_noise]", "regularization.gaussian_noise.where=linear"),
    "multiplicative": ("regularization=[gaussian_noise]", "regularization.gaussian_noise.multiplicative=true"),
}
SILENT = {  # the same without noise
    "dropconnect": ("regularization.dropconnect.p=0",),
    "gaussian": ("regularization.dropconnect.p=0",),
    "gaussian_noise": ("regularization.gaussian_noise.std=0",),
    "multiplicative": ("regularization.gaussian_noise.std=0",),
}
MODELS = {
    "mlp": ("model=mlp", "model.hidden=[12,12]"),
    "convnet": ("model=convnet", "model.channels=[4,4]", "model.hidden=8"),
    "resnet20": ("model=resnet20",),
}


def made(model, stack, *more):
    """A run of four steps in two epochs on images of noise."""
    words = (*MODELS[model], *STACKS[stack], "batch_size=16", "epochs=2", "optimizer=momentum", *more)
    if model == "resnet20" and "dropconnect" in STACKS[stack][0]:
        words += ("regularization.dropconnect.where=conv",)
    config, noise = check(composed(*words)), generator(0, "noise")
    return TrainState(config, Resources().parts(config, splits(train=40), CPU, noise), CPU, noise)


@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize("stack", list(STACKS))
def test_goes_on_bit_for_bit(tmp_path, model, stack):
    """Each network trains and evaluates with each form; saved after a step and loaded by a new run, the rest is the
    same to the last bit."""
    if model == "resnet20" and stack == "gaussian_noise":
        stack = "multiplicative"  # its one linear layer is the head
    path, whole = tmp_path / checkpoint.FILE, made(model, stack, "log.every=1")
    whole.on_pause = lambda run: checkpoint.save(path, run.state_dict()) if run.progress.step == 1 else None
    train([whole], EagerProgram())
    assert all(math.isfinite(row["train_loss"] + row["val_loss"]) for row in whole.progress.history)
    resumed = made(model, stack, "log.every=1")
    resumed.load_state_dict(checkpoint.load(path))
    train([resumed], EagerProgram())
    assert torch.equal(values(resumed), values(whole))
    assert numbers(resumed.progress.history) == numbers(whole.progress.history)
    assert torch.equal(resumed.noise.get_state(), whole.noise.get_state())


@pytest.mark.parametrize("stack", list(STACKS))
def test_micro_batches_and_half_precision(stack):
    """Accumulated gradients and bfloat16 train to finite weights, other than without the item."""
    run = made("convnet", stack, "accumulate=3", "precision=bf16")
    train([run], EagerProgram())
    plain = made("convnet", stack, "accumulate=3", "precision=bf16", *SILENT[stack])
    train([plain], EagerProgram())
    assert values(run).isfinite().all() and not torch.allclose(values(run), values(plain), rtol=1e-3)


@pytest.mark.parametrize("stack", list(STACKS))
def test_a_copy_stands_alone(stack):
    """A deep copy answers alike, with masks and noise of its own, and training it leaves the first as it was."""
    run, images = made("convnet", stack), torch.rand(4, 1, 8, 8, generator=seeded())
    twin = copy.deepcopy(run.model)
    assert torch.equal(run.model.eval()(images), twin.eval()(images))
    assert torch.equal(run.model.train()(images), twin.train()(images))  # from copies of one generator
    before = run.model.eval()(images)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(run.model(images), before) and not torch.allclose(twin.eval()(images), before)
