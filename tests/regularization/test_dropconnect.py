"""DropConnect and Gaussian noise: statistics of the training passes, what testing makes of them, and how they train."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn.functional import conv2d

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.noise import sampled
from runner.model.resnet import ResNet
from runner.model.stages import stage_parameters
from runner.model.torchvision_model import build as torchvision_model
from runner.regularization.base import weights
from runner.regularization.dropconnect import DropConnect, WeightMask, quadrature_mean, relu_mean, variance_of
from runner.regularization.gaussian_noise import GaussianNoise, GaussianNoiseLayer
from runner.regularization.l2 import L2
from runner.store import checkpoint
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.training import CPU, numbers, splits
from tests.shared.training import weights as values

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
PASSES = 20_000
NETWORKS = {
    "mlp": lambda: MLP([16, 8], **SHAPE),
    "convnet": lambda: ConvNet([4, 4], 8, **SHAPE),
    "resnet20": lambda: ResNet(20, **SHAPE),
}


def network(name, seed=0):
    torch.manual_seed(seed)
    return NETWORKS[name]()


def agree(found, expected, deviation, passes=PASSES):
    """Whether the means of passes are all within what chance allows: one set of passes in a million is outside."""
    bound = stats.norm.isf(1e-6 / (2 * expected.numel())) * deviation / math.sqrt(passes)
    return bool(((found - expected).abs() < bound).all())


def lone(layer, item, draws):
    """A layer, float64, that an item has changed, as the second of a network whose first does nothing."""
    torch.manual_seed(1)
    first = type(layer)(layer.in_features, 1) if isinstance(layer, nn.Linear) else nn.Conv2d(1, 1, 1)
    model = nn.Sequential(first, layer).double()
    item.modify(model, draws)
    model[0] = nn.Identity()
    return model.train()


def linear():
    torch.manual_seed(2)
    return nn.Linear(6, 5), torch.rand(1, 6, dtype=torch.float64) + 0.5


def convolution():
    torch.manual_seed(3)
    return nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.rand(1, 4, 5, 5, dtype=torch.float64) + 0.5


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


# -- dropconnect at test time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETWORKS))
def test_mean_weights(name):
    """`inference: mean` answers as the network without the item would, without drawing."""
    images, draws = torch.rand(4, 1, 8, 8, generator=seeded()), seeded()
    clean = network(name).eval()(images)
    model = network(name)
    DropConnect(where="head" if name == "resnet20" else "linear").modify(model, draws)
    assert torch.equal(model.eval()(images), clean)
    assert torch.equal(draws.get_state(), seeded().get_state())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-3.0, 1.0), (2.0, 0.1), (-0.3, 2.5), (30.0, 2.0), (-30.0, 2.0)])
def test_relu_mean(mean, std):
    """The closed form is the integral of max(0, u) times the Gaussian's density."""
    found = relu_mean(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))
    low, high = max(0, mean - 12 * std), max(0, mean + 12 * std)
    expected = integrate.quad(lambda u: u * stats.norm.pdf(u, mean, std), low, high, points=[mean], epsabs=1e-13)[0]
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_relu_mean_is_not_negative():
    """Rounding in float32 never makes the mean of what is not negative negative, far below zero."""
    mean = torch.linspace(-15, 0, 2001)
    found, exact = relu_mean(mean, torch.tensor(1.0)), by_hand(mean.double().numpy(), 1.0)
    assert (found >= 0).all()
    np.testing.assert_allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "error"),
    [(nn.Tanh(), 1e-4), (nn.GELU(), 1e-4), (nn.Sigmoid(), 1e-7), (nn.SiLU(), 1e-6), (nn.ReLU6(), 0.02)],
)
def test_quadrature_mean(module, error):
    """Other nonlinearities' means over a Gaussian agree with numerical integration; kinks cost digits."""
    for mean, std in ((0.3, 0.5), (-1.0, 1.5)):
        found = quadrature_mean(module, *torch.tensor([mean, std], dtype=torch.float64))

        def integrand(u, mean=mean, std=std):
            return module(torch.tensor(u, dtype=torch.float64)).item() * stats.norm.pdf(u, mean, std)

        expected = integrate.quad(integrand, mean - 12 * std, mean + 12 * std, points=[0, 6], limit=200)[0]
        assert found.item() == pytest.approx(expected, abs=error)


def by_hand(mean, variance):
    std = np.sqrt(variance)
    return mean * stats.norm.cdf(mean / std) + std * stats.norm.pdf(mean / std)


def noisy_mlp(inference="gaussian", p=0.4):
    model = network("mlp").double()
    with torch.no_grad():
        model.linear2.weight.mul_(3)
    DropConnect(p, inference=inference).modify(model, seeded(7))
    return model.eval()


def up_to(model, count):
    return nn.Sequential(*list(model)[:count])


@torch.no_grad()
def test_gaussian_inference_of_an_mlp():
    """The hidden activations are the formula's, the head takes the mean weights."""
    images = torch.rand(5, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    model, plain = noisy_mlp(), noisy_mlp("mean")
    x = up_to(plain, 3)(images)  # flatten, linear1, relu1: nothing is dropped there
    w, b = plain.linear2.weight.numpy(), plain.linear2.bias.numpy()
    hidden = by_hand(x.numpy() @ w.T + b, x.numpy() ** 2 @ (w**2).T * 0.4 / 0.6)
    head = plain.head.weight.numpy(), plain.head.bias.numpy()
    np.testing.assert_allclose(model(images), hidden @ head[0].T + head[1], rtol=1e-12)
    assert not torch.allclose(model(images), plain(images), rtol=1e-2)
    assert torch.equal(model(images), model(images))


@torch.no_grad()
def test_gaussian_inference_is_nearer_to_sampling():
    """After the nonlinearity the mean of sampled passes is far from ReLU at mean weights, and near the formula."""
    images, passes = torch.rand(5, 1, 8, 8, generator=seeded(), dtype=torch.float64), 4000
    model = noisy_mlp()
    hidden = up_to(model, 5)
    with sampled(model, seeded(8)):
        sampled_mean = sum(hidden(images) for _ in range(passes)) / passes
    errors = [(up_to(part, 5)(images) - sampled_mean).abs().mean() for part in (model, noisy_mlp("mean"))]
    assert errors[0] < 0.2 * errors[1]


@pytest.mark.parametrize("hanging", [False, True])
@torch.no_grad()
def test_gaussian_inference_through_a_batch_norm(hanging):
    """Between a convolution and ReLU a norm scales the variance as it scales the mean, also one that an earlier item
    hung on the convolution."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()).double()
    norm = model[2]
    if hanging:
        model[1].add_module("norm", norm)
        model[1].register_forward_hook(lambda layer, inputs, output: layer.norm(output))
        model[2] = nn.Identity()
    for part, low in ((norm.running_mean, 0.0), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, 0.0)):
        part.copy_(torch.rand(3, generator=seeded(3)) + low)
    DropConnect(0.3, "conv", "gaussian").modify(model, None)
    x = torch.rand(2, 2, 6, 6, generator=seeded(), dtype=torch.float64)
    z, weight = model[0](x), model[1].parametrizations.weight.original
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1)
    mean = (conv2d(z, weight, model[1].bias, padding=1) - norm.running_mean.view(-1, 1, 1)) * scale
    variance = conv2d(z**2, weight**2, padding=1) * (0.3 / 0.7) * scale**2
    expected = by_hand((mean + norm.bias.view(-1, 1, 1)).numpy(), variance.numpy())
    np.testing.assert_allclose(model.eval()(x), expected, rtol=1e-7)


@torch.no_grad()
def test_norms_of_the_batch_carry_no_variance():
    """A batch norm without running statistics depends on all images: behind it the mean weights are used."""
    norm, x = nn.BatchNorm2d(3, track_running_stats=False), torch.rand(2, 2, 6, 6, generator=seeded())
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3), norm, nn.ReLU()).eval()
    clean = model(x)
    DropConnect(0.3, "conv", "gaussian").modify(model, None)
    assert torch.equal(model.eval()(x), clean)


class Shared(nn.Module):
    """One ReLU, in place, for two readers: the layer's output as it is, and a changed copy of it."""

    def __init__(self, change):
        super().__init__()
        self.first, self.layer, self.relu = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True)
        self.change = change

    def forward(self, x):
        return self.relu(self.change(self.layer(self.relu(self.first(x)))))


@pytest.mark.parametrize(
    ("change", "direct"),
    [(lambda u: u, True), (lambda u: u.view_as(u), False), (lambda u: 2 * u, False), (lambda u: u.mul_(2), False)],
)
@torch.no_grad()
def test_only_direct_readers_average(change, direct):
    """A nonlinearity, also one that works in place and is used twice, averages what it reads directly from a dropped
    layer; what was changed on the way, or by another layer, it takes as it is."""
    torch.manual_seed(0)
    model, x = Shared(change), torch.rand(3, 4, generator=seeded())
    clean = model(x)
    inner = torch.relu(model.first(x))
    DropConnect(inference="gaussian").modify(model, None)
    found = model.eval()(x)
    if direct:
        variance = inner.square() @ model.layer.weight.square().T
        expected = by_hand(model.layer(inner).numpy(), variance.numpy())
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    else:
        assert torch.equal(found, clean)


@pytest.mark.parametrize("inference", ["mean", "gaussian"])
def test_dropconnect_of_nothing(inference):
    """p = 0 changes neither answers nor gradients, though the variance is zero everywhere."""
    images, found = torch.rand(4, 1, 8, 8, generator=seeded()), []
    for item in (None, DropConnect(0.0, inference=inference)):
        model = network("mlp")
        if item:
            item.modify(model, seeded())
        logits = model.eval()(images)
        logits.square().sum().backward()
        found.append(
            [logits.detach(), *(p.grad for _, p in sorted(model.named_parameters(), key=lambda n: n[1].shape))]
        )
    for plain, changed in zip(*found):
        torch.testing.assert_close(plain, changed)


def test_monte_carlo_draws_masks():
    """Inside `sampled` an evaluated network draws masks, and nonlinearities read them as they come; afterwards not."""
    images = torch.rand(4, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    passes = {}
    for inference in ("mean", "gaussian"):
        model = noisy_mlp(inference)
        before = model(images)
        with sampled(model, seeded(9)):
            passes[inference] = [model(images) for _ in range(2)]
        assert torch.equal(model(images), before)
        assert not torch.allclose(*passes[inference])
    assert torch.equal(passes["mean"][0], passes["gaussian"][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_gaussian_inference_under_autocast(dtype):
    """Half precision keeps its type and the variance's full range: squares of large activations do not overflow."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    DropConnect(inference="gaussian").modify(model, None)
    x = 3000 * torch.rand(2, 4, generator=seeded())
    expected = model.eval()(x)
    with torch.autocast("cpu", dtype):
        found = model(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=10)


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


# -- gaussian noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplicative", [False, True])
@pytest.mark.parametrize(("made", "where"), [(linear, "linear"), (linear, "head"), (convolution, "conv")])
@torch.no_grad()
def test_gaussian_noise_expectation(made, where, multiplicative):
    """The mean of 20,000 training passes through a layer is its test pass, in float64, for all outputs together; their
    variance is that of the weighted sum of independent noise."""
    layer, x = made()
    model = lone(layer, GaussianNoise(0.7, multiplicative, where), seeded(1))
    passes = model(x.expand(PASSES, *x.shape[1:]))
    test = model.eval()(x)[0]
    clean = layer.forward(x)[0]
    scale = x.square() if multiplicative else torch.ones_like(x)
    squared = copy.deepcopy(layer)
    squared.weight.copy_(layer.weight.square())
    squared.bias.zero_()
    variance = 0.49 * squared.forward(scale)[0]
    assert torch.equal(test, clean)
    assert agree(passes.mean(0), test, variance.sqrt())
    squares = (passes - test).square()
    assert agree(squares.mean(0), variance, squares.std(0))
    assert not agree(squares.mean(0), 0.9 * variance, squares.std(0))


def test_gaussian_noise_is_gaussian():
    """Each activation has its own draw; quantiles are the normal distribution's (Kolmogorov-Smirnov)."""
    x = torch.full((200, 300), 2.0)
    for multiplicative, mean, std in ((False, 2, 0.5), (True, 2, 1.0)):
        y = GaussianNoiseLayer(0.5, multiplicative, seeded(3))(x)
        assert stats.kstest(y.double().flatten().numpy(), "norm", (mean, std)).pvalue > 1e-4
        for axis in (0, 1):
            assert y.mean(axis).std().item() < 2 * std / math.sqrt(x.shape[axis])


@pytest.mark.parametrize(
    ("name", "where", "noised"),
    [
        ("mlp", "input", ["linear1"]),
        ("mlp", "linear", ["linear2", "head"]),
        ("convnet", "input", ["conv1"]),
        ("convnet", "conv", ["conv2"]),
        ("convnet", "linear", ["hidden", "head"]),
        ("resnet20", "input", ["stem.conv"]),
        ("resnet20", "head", ["head"]),
    ],
)
def test_gaussian_noise_places(name, where, noised):
    """Noise is added to what the layers that `where` names read, and nowhere else; never in evaluation."""
    model, seen = network(name), {}
    GaussianNoise(0.5, where=where).modify(model, seeded())
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for n, layer in layers.items():  # before and after the noise
        layer.register_forward_pre_hook(lambda m, x, n=n: seen.update({(n, 0): x[0]}), prepend=True)
        layer.register_forward_pre_hook(lambda m, x, n=n: seen.update({(n, 1): x[0]}))
    model.train()(torch.ones(4, 1, 8, 8))
    assert [n for n in layers if not torch.equal(seen[n, 0], seen[n, 1])] == noised
    model.eval()(torch.ones(4, 1, 8, 8))
    assert all(seen[n, 0] is seen[n, 1] for n in layers)


def test_gaussian_noise_draws_from_its_own_generator():
    """Training passes repeat with the generator's seed; evaluation draws only for Monte Carlo."""
    passes, images = [], torch.ones(4, 1, 8, 8)
    for seed in (5, 5, 6):
        model = network("convnet")
        GaussianNoise(0.5).modify(model, seeded(seed))
        torch.manual_seed(len(passes))
        passes.append(model.train()(images))
    assert torch.equal(passes[0], passes[1]) and not torch.equal(passes[0], passes[2])
    clean = network("convnet").eval()(images)
    with sampled(model.eval(), seeded()):
        assert not torch.allclose(model(images), clean)
    assert torch.equal(model(images), clean)


@pytest.mark.parametrize("multiplicative", [False, True])
def test_gaussian_noise_of_nothing(multiplicative):
    """std = 0 trains as if nothing were there."""
    images = torch.rand(4, 1, 8, 8, generator=seeded())
    model = network("convnet")
    GaussianNoise(0.0, multiplicative).modify(model, seeded())
    assert torch.equal(model.train()(images), network("convnet").train()(images))


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf])
def test_gaussian_noise_range(std):
    """std is a finite number, not below 0."""
    with pytest.raises(ConfigError, match=f"regularization.gaussian_noise.std={std}: must be a number, not below 0"):
        GaussianNoise(std)
