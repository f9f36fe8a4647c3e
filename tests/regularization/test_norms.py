"""Norms, weight standardization, max-norm: against NumPy and torch's own layers, in networks and in runs."""

import copy
import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import batch_norm, conv2d, group_norm, layer_norm, linear, max_pool2d
from torch.nn.utils import parametrize

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.context import Context
from runner.execution.eager import EagerProgram
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.resnet import ResNet
from runner.model.stages import stage_parameters
from runner.optimizer.param_groups import parameter_groups
from runner.regularization.base import weights
from runner.regularization.batchnorm import BatchNorm
from runner.regularization.dropout import Dropout
from runner.regularization.ghost_batchnorm import GhostBatchNorm, GhostBatchNormLayer, pieces
from runner.regularization.groupnorm import GroupNorm
from runner.regularization.layernorm import LayerNorm
from runner.regularization.max_norm import MaxNorm
from runner.regularization.norms import hidden_layers
from runner.regularization.weight_standardization import Standardized, WeightStandardization
from runner.store import checkpoint
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.configs import composed
from tests.shared.training import make, numbers, trained

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
CONVNET = ("model=convnet", "model.channels=[4,8]", "model.hidden=8", "epochs=1")
NORMS = {"batchnorm": BatchNorm, "groupnorm": GroupNorm, "layernorm": LayerNorm, "ghost_batchnorm": GhostBatchNorm}
KEYS = {"groupnorm": {"num_groups": 2}, "ghost_batchnorm": {"ghost_batch_size": 4}}  # that fit small networks


def networks():
    torch.manual_seed(0)
    return {"mlp": MLP([16, 8], **SHAPE), "convnet": ConvNet([4, 8], 8, **SHAPE)}


def built(name, network="convnet", **keys):
    """A small network with the item's norms."""
    model = networks()[network]
    NORMS[name](**KEYS.get(name, {}) | keys).modify(model, None)
    return model


def images(count=12, seed=1):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def jittered(model):
    """Norms whose weights, biases and running statistics are no longer ones and zeros."""
    draws = torch.Generator().manual_seed(2)
    for name, value in model.state_dict().items():
        if ".norm." in name and value.ndim:
            value.copy_(torch.rand(value.shape, generator=draws) + 0.5)
    return model


def lines(*overrides):
    """What a rehearsal refuses."""
    config = check(composed("data.limit=200", *overrides))
    with pytest.raises(Refused) as refused:
        Resources().preflight(config)
    return refused.value.lines


def small(item):
    """The words that fit the item to the small network."""
    return tuple(f"regularization.{item}.{key}={value}" for key, value in KEYS.get(item, {}).items())


# -- where norms go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    ("network", "places"), [("mlp", ["linear1", "linear2"]), ("convnet", ["conv1", "conv2", "hidden"])]
)
def test_places(network, places, name):
    """Each convolution and linear layer but the last has a norm, of its own width, and nothing else has."""
    model = built(name, network)
    found = [path.removesuffix(".norm") for path, module in model.named_modules() if path.endswith(".norm")]
    assert found == places
    for path in places:
        layer = model.get_submodule(path)
        assert len(layer.norm.weight) == len(layer.weight)


@pytest.mark.parametrize("name", NORMS)
def test_names_and_values_of_weights_stay(name):
    """The network's own tensors are in the state under their names, with their bits; only norms are new."""
    for network, plain in networks().items():
        before, after = plain.state_dict(), built(name, network).state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert all(".norm." in key for key in after.keys() - before.keys())


@pytest.mark.parametrize("name", NORMS)
def test_norm_comes_before_the_nonlinearity(name):
    """What the layer after a norm's layer reads has the statistics that the norm makes."""
    model, read = built(name), {}
    for layer in ("relu1", "relu"):
        model.get_submodule(layer).register_forward_pre_hook(lambda m, x, layer=layer: read.update({layer: x[0]}))
    model.train()(images(8))
    axes = (0, 2, 3) if "batch" in name else (1, 2, 3)
    torch.testing.assert_close(read["relu1"].mean(axes), torch.zeros(4 if "batch" in name else 8), atol=1e-5, rtol=0)
    assert read["relu"].std().item() == pytest.approx(1, abs=0.2)


def test_attention_is_left_alone():
    """Layers that attention only borrows the weights of get no norm; the other ones do."""
    block = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 4), nn.Linear(4, 2))
    assert [name for name, _ in hidden_layers(block)] == ["0", "2"]


def test_tokens():
    """For a linear layer that gives tokens [B, T, F] the channels are the features."""
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    for name, expected in {
        "batchnorm": lambda y: batch_norm(y.flatten(0, 1), None, None, training=True).view(6, 5, 4),
        "groupnorm": lambda y: group_norm(y.mT, 2).mT,
        "layernorm": lambda y: layer_norm(y, (4,)),
    }.items():
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        layer = model[0]
        plain = linear(x, layer.weight, layer.bias)
        NORMS[name](**KEYS.get(name, {})).modify(model, None)
        torch.testing.assert_close(layer(x), expected(plain))


@pytest.mark.parametrize("name", NORMS)
def test_norms_follow_the_type_of_their_layer(name):
    """A network in float64 gets norms in float64."""
    model = networks()["convnet"].double()
    NORMS[name](**KEYS.get(name, {})).modify(model, None)
    assert model.train()(images().double()).dtype == torch.float64
    assert {value.dtype for value in model.state_dict().values() if value.ndim} == {torch.float64}


@pytest.mark.parametrize("name", NORMS)
def test_norms_lie_where_their_layer_lies(name):
    """A network on the meta device gets norms there."""
    model = networks()["convnet"].to("meta")
    NORMS[name](**KEYS.get(name, {})).modify(model, None)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


# -- formulas -------------------------------------------------------------------------------------------------------


def by_hand(model, x, norm, hidden_norm):
    """The small convnet with norms put in by hand."""
    for name in ("conv1", "conv2"):
        layer = model.get_submodule(name)
        x = max_pool2d(torch.relu(norm(conv2d(x, layer.weight, layer.bias, padding=1), layer.norm)), 2)
    x = torch.relu(hidden_norm(linear(x.flatten(1), model.hidden.weight, model.hidden.bias), model.hidden.norm))
    return linear(x, model.head.weight, model.head.bias)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_network_is_the_one_written_out(name, affine, eps, training):
    """The network with the item is the network with torch's norms put in by hand, training and testing."""
    model = jittered(built(name, eps=eps, affine=affine))
    assert all((layer.norm.weight is not None) == affine for _, layer in hidden_layers(model))

    def batched(x, n):
        if not training:
            return batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, eps=eps)
        parts = x.split(4) if name == "ghost_batchnorm" else [x]
        return torch.cat([batch_norm(part, None, None, n.weight, n.bias, training=True, eps=eps) for part in parts])

    def grouped(x, n):
        return group_norm(x, 2 if name == "groupnorm" else 1, n.weight, n.bias, eps)

    def layered(x, n):
        return layer_norm(x, (8,), n.weight, n.bias, eps)

    norm = batched if "batch" in name else grouped
    expected = by_hand(model, images(), norm, layered if name == "layernorm" else norm)
    torch.testing.assert_close(model.train(training)(images()), expected)
    plain = networks()["convnet"](images())
    assert not torch.allclose(plain, expected, rtol=1e-3)


def numpy_norm(x, axes, weight, bias, eps):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - mean) / np.sqrt(variance + eps) * weight.reshape(shape) + bias.reshape(shape)


@pytest.mark.parametrize("name", ["batchnorm", "layernorm"])
@pytest.mark.parametrize("layer", ["conv1", "hidden"])
def test_formula(name, layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the batch or over all that an image has."""
    module = jittered(built(name, eps=0.01)).get_submodule(layer).train()
    x = torch.randn(8, 1, 8, 8) if layer == "conv1" else torch.randn(8, 32)
    plain = conv2d(x, module.weight, module.bias, padding=1) if layer == "conv1" else module._parameters["weight"]
    plain = plain if layer == "conv1" else linear(x, plain, module.bias)
    pixels = tuple(range(2, plain.ndim))
    axes = (0, *pixels) if name == "batchnorm" else (1, *pixels)
    weight, bias = module.norm.weight.detach().numpy(), module.norm.bias.detach().numpy()
    expected = numpy_norm(plain.detach().numpy(), axes, weight, bias, 0.01)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_groupnorm_formula():
    """Mean and variance of each image's groups of neighbouring channels."""
    module = jittered(built("groupnorm", num_groups=4)).conv2.train()
    x = torch.randn(5, 4, 4, 4)
    plain = conv2d(x, module.weight, module.bias, padding=1).detach().numpy().reshape(5, 4, 2 * 16)
    normal = (plain - plain.mean(2, keepdims=True)) / np.sqrt(plain.var(2, keepdims=True) + 1e-5)
    weight, bias = (t.detach().numpy().reshape(1, 8, 1, 1) for t in (module.norm.weight, module.norm.bias))
    expected = normal.reshape(5, 8, 4, 4) * weight + bias
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("name", "keys"), [("batchnorm", {}), ("ghost_batchnorm", {"ghost_batch_size": 12})])
def test_running_statistics(name, keys, momentum):
    """running = (1 - momentum) * running + momentum * batch's, with the unbiased variance; testing uses them."""
    model = built(name, momentum=momentum, **keys).train()
    mean, variance = np.zeros(4), np.ones(4)
    for seed in range(3):
        x = images(seed=seed)
        plain = conv2d(x, model.conv1.weight, model.conv1.bias, padding=1).detach().double().numpy()
        mean = (1 - momentum) * mean + momentum * plain.mean((0, 2, 3))
        variance = (1 - momentum) * variance + momentum * plain.var((0, 2, 3), ddof=1)
        model(x)
    np.testing.assert_allclose(model.conv1.norm.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(model.conv1.norm.running_var, variance, rtol=1e-5)
    model.eval()
    plain = conv2d(x, model.conv1.weight, model.conv1.bias, padding=1).detach().double().numpy()
    shape = (1, 4, 1, 1)
    tested = (plain - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + 1e-5)
    np.testing.assert_allclose(model.conv1(x).detach().numpy(), tested, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_test_answers_of_an_image_do_not_depend_on_the_others(name):
    """In evaluation an image alone gets the answer that it gets among others; training batch norms couple them."""
    model, x = built(name), images()
    model.train()(x)
    model.eval()
    alone = torch.cat([model(x[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(model(x), alone)
    model.train()
    coupled = not torch.allclose(model(x)[:6], model(x[torch.arange(6)]), rtol=1e-3)
    assert coupled == ("batch" in name)


def test_batchnorm_trains_and_tests_differently():
    """Training uses the batch's own statistics, whatever the running ones are; testing only the running ones."""
    model, x = built("batchnorm"), images()
    first = model.train()(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean += 1
    assert torch.equal(model.train()(x), first)
    assert not torch.allclose(model.eval()(x), first, rtol=1e-2)


# -- ghost batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 4, 4), (10, 3, 2, 2), (7, 3), (3, 3, 2, 2)])
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_ghost_batches_are_a_loop_of_batch_norms(shape, momentum):
    """Values, gradients and running statistics are those of one torch layer that sees the pieces in turn."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ghost = GhostBatchNormLayer(3, 4, momentum=momentum, dtype=torch.float64)
    plain = nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    sizes = {12: [4, 4, 4], 10: [4, 3, 3], 7: [4, 3], 3: [3]}[shape[0]]
    found = ghost(inputs[0])
    expected = torch.cat([plain(part.flatten(2) if len(shape) > 2 else part) for part in inputs[1].split(sizes)])
    expected = expected.view(shape)
    torch.testing.assert_close(found, expected)
    for y in (found, expected):
        (y.sin() * torch.arange(y.numel()).view(shape)).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(ghost.get_buffer(name), value)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(ghost.get_parameter(name).grad, value.grad)
    tested = ghost.eval()(x).flatten(2) if len(shape) > 2 else ghost.eval()(x)
    torch.testing.assert_close(tested, plain.eval()(x.flatten(2) if len(shape) > 2 else x))


def test_ghost_running_statistics_are_the_papers_sum():
    """After n pieces: (1 - m)^n * start + the sum of (1 - m)^(n - i) * m * mean of piece i (algorithm 1)."""
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    layer = GhostBatchNormLayer(3, 5, momentum=0.2, dtype=torch.float64)
    layer(x)
    shares = 0.2 * 0.8 ** np.arange(3, -1, -1)
    expected = shares @ x.numpy().reshape(4, 5, 3).mean(1)
    np.testing.assert_allclose(layer.running_mean, expected, rtol=1e-10)


def test_pieces():
    """As few pieces as keep to the size; none of one image, though it be larger than the size then."""
    for images in range(1, 70):
        for size in (2, 3, 8, 32, 100):
            found = pieces(images, size)
            assert sum(found) == images and max(found) - min(found) <= 1
            assert min(found) >= min(2, images)
            if size > 2 or images % 2 == 0:
                assert max(found) <= size and (len(found) == 1 or images > (len(found) - 1) * size)
    assert pieces(64, 32) == [32, 32] and pieces(65, 32) == [22, 22, 21] and pieces(5, 2) == [3, 2]


def test_ghost_batch_size_changes_training():
    """Smaller ghost batches give other values; one that holds the whole batch is plain batch norm."""
    x = images()
    found = {size: built("ghost_batchnorm", ghost_batch_size=size).train()(x) for size in (3, 6, 12)}
    plain = built("batchnorm").train()(x)
    torch.testing.assert_close(found[12], plain)
    assert not torch.allclose(found[3], found[6], rtol=1e-2) and not torch.allclose(found[6], plain, rtol=1e-2)


def test_ghost_keeps_the_memory_format():
    """Channels-last images stay so."""
    x = torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)
    assert GhostBatchNormLayer(3, 2)(x).is_contiguous(memory_format=torch.channels_last)


# -- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMS)
def test_stages_cover_the_norms(name):
    """Every parameter is in one stage, a norm's in that of its layer."""
    model = built(name)
    found = [(stage, path) for stage, named in stage_parameters(model) for path, _ in named]
    assert sorted(path for _, path in found) == sorted(path for path, _ in model.named_parameters())
    assert all(path.startswith(f"{stage}.") for stage, path in found)


@pytest.mark.parametrize("name", NORMS)
def test_norms_do_not_decay(name):
    """Their weights are in the group without decay, and no penalty on weights counts them."""
    model = built(name)
    rates = {stage: 1.0 for stage, _ in stage_parameters(model)}
    plain = next(g for g in parameter_groups(model, rates, no_decay=True) if g.get("weight_decay") == 0)
    spared = {id(parameter) for parameter in plain["params"]}
    norms = [parameter for path, parameter in model.named_parameters() if ".norm." in path]
    assert len(norms) == 6 and all(id(parameter) in spared for parameter in norms)
    assert not {id(parameter) for parameter in weights(model)} & {id(parameter) for parameter in norms}


@pytest.mark.parametrize(("name", "held"), [("batchnorm", True), ("ghost_batchnorm", True), ("layernorm", False)])
def test_biases_before_a_batch_norm_are_held(name, held):
    """A bias that the norm subtracts again is no parameter but stays in the state; the head's and others train."""
    for network, model in ((network, built(name, network)) for network in networks()):
        trained = dict(model.named_parameters())
        layers = [path for path, _ in hidden_layers(model)]
        assert all((f"{path}.bias" in trained) == (not held) for path in layers)
        assert "head.bias" in trained and all(f"{path}.bias" in model.state_dict() for path in layers), network


def test_bias_before_a_group_norm():
    """Groups of several channels leave something of a bias; groups of one channel nothing."""
    x = images()
    for groups, held in ((2, False), (4, True)):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
        GroupNorm(groups).modify(model, None)
        assert ("0.bias" in dict(model.named_parameters())) != held
        before = model(x)
        model[0].bias.data[0] += 5
        assert torch.allclose(model(x), before, atol=1e-4) == held


@pytest.mark.parametrize("name", ["batchnorm", "ghost_batchnorm"])
def test_held_biases_do_not_walk(name):
    """Under Lion, which makes a whole step of any gradient, they keep their bits; thawing all parameters is no harm."""
    before = make(*CONVNET, f"regularization=[{name}]").model.state_dict()["conv1.bias"].clone()
    run = trained(*CONVNET, f"regularization=[{name}]", "optimizer=lion")
    run.model.requires_grad_(True)
    assert torch.equal(run.model.state_dict()["conv1.bias"], before)
    assert not any(path in ("conv1.bias", "conv2.bias", "hidden.bias") for path, _ in run.model.named_parameters())


# -- weight standardization -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_standardized_formula(eps):
    """(W - mean) / (std + eps) for each output channel, with the biased deviation (equations 5 to 7)."""
    weight = torch.randn(6, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.2
    rows = weight.numpy().reshape(6, -1)
    expected = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + eps)
    np.testing.assert_allclose(Standardized(eps)(weight).numpy().reshape(6, -1), expected, rtol=1e-9, atol=1e-12)


def test_standardized_gradient():
    """The optimizer's gradient goes through mean and deviation; a constant filter has a finite one."""
    weight = torch.randn(2, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(Standardized(1e-5), weight.requires_grad_())
    constant = torch.full((2, 2, 2, 2), 0.3, requires_grad=True)
    Standardized(1e-5)(constant).sum().backward()
    assert constant.grad.isfinite().all()


def test_standardization_of_a_network():
    """Convolutions use standardized kernels; linear layers, biases and the raw weights stay."""
    plain, model, x = networks()["convnet"], networks()["convnet"], images()
    WeightStandardization().modify(model, None)
    y = x
    for name in ("conv1", "conv2"):
        layer = plain.get_submodule(name)
        rows = layer.weight.detach().numpy().reshape(len(layer.weight), -1)
        rows = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-5)
        kernel = torch.from_numpy(rows.reshape(layer.weight.shape))
        y = max_pool2d(torch.relu(conv2d(y, kernel, layer.bias, padding=1)), 2)
        assert torch.equal(model.get_submodule(name).parametrizations.weight.original, layer.weight)
    expected = plain.head(torch.relu(plain.hidden(y.flatten(1))))
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain(x), expected, rtol=0.1)
    assert not parametrize.is_parametrized(model.hidden) and not parametrize.is_parametrized(model.head)


def test_standardization_forgets_scale_and_mean():
    """A kernel times 7 plus 3 gives the same network."""
    model, x = networks()["convnet"], images()
    WeightStandardization(1e-9).modify(model, None)
    before = model(x)
    with torch.no_grad():
        model.conv2.parametrizations.weight.original.mul_(7).add_(3)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-4)


def test_standardization_places():
    """Kernels of one weight, which would become 0, and a convolution that gives the logits are left alone."""
    depthwise = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 3, 1)
    )
    assert WeightStandardization().places(depthwise) == ["1"]
    assert len(WeightStandardization().places(ResNet(20, **SHAPE))) == 19
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 3))
    assert WeightStandardization().places(model) == ["0", "1"]


# -- max-norm -------------------------------------------------------------------------------------------------------


def rows(weight):
    return np.sqrt(np.square(weight.detach().double().numpy().reshape(len(weight), -1)).sum(1))


@pytest.mark.parametrize(("optimizer", "rate", "bound"), [("sgd", 0.2, 0.55), ("adam", 0.002, 0.59)])
def test_max_norm_after_a_step(optimizer, rate, bound):
    """A run's step is the optimizer's, then every row or filter longer than the bound is scaled to it; biases stay."""
    words = (*CONVNET, f"optimizer={optimizer}", f"optimizer.lr={rate}")
    free, bounded = (
        make(*words, *more) for more in ((), ("regularization=[max_norm]", f"regularization.max_norm.max_norm={bound}"))
    )
    steps = []
    for run in (free, bounded):
        batch = run.next_batch()
        loss = run.loss(batch)
        loss.backward()
        run.step(loss.detach(), lambda: loss)  # noqa: B023
        steps.append(dict(run.model.named_parameters()))
    touched = 0
    for name, weight in steps[0].items():
        found, expected = steps[1][name].detach().numpy(), weight.detach().numpy()
        if weight.ndim >= 2:
            norms = rows(weight)
            touched += (norms > bound).sum()
            factor = np.minimum(1, bound / norms).reshape(-1, *[1] * (weight.ndim - 1))
            expected = expected * factor
            assert rows(steps[1][name]).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert touched > 3 and any((rows(w) < bound * 0.99).any() for w in steps[0].values() if w.ndim >= 2)


def test_max_norm_reaches_parametrized_weights():
    """The weights below a parametrization are bounded, whatever the layer makes of them."""
    model = networks()["convnet"]
    WeightStandardization().modify(model, None)
    MaxNorm(0.1).after_step(model)
    assert rows(model.conv1.parametrizations.weight.original).max() <= 0.1 + 1e-6
    assert rows(model.conv1.weight)[0] == pytest.approx(3, rel=1e-3)  # 9 weights of deviation 1
    assert rows(model.hidden.weight).max() <= 0.1 + 1e-6


def test_max_norm_leaves_what_enters_no_unit_or_does_not_train():
    """Position embeddings, biases, norms and frozen layers keep their values; attention's rows are bounded."""
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.LayerNorm(4), nn.Linear(4, 2))
    model.positions, model.token = nn.Parameter(torch.zeros(5, 4)), nn.Parameter(torch.zeros(1, 1, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(10)
    model[0].requires_grad_(False)
    MaxNorm(2.0).after_step(model)
    changed = {name for name, parameter in model.named_parameters() if (parameter != 10).any()}
    assert changed == {"1.in_proj_weight", "1.out_proj.weight", "3.weight"}
    np.testing.assert_allclose(rows(model[1].in_proj_weight), 2, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", "newton_cg"])
def test_max_norm_holds_under_a_full_batch_optimizer(optimizer):
    """A step that looks at the loss several times begins where the last one's bounded weights are."""
    words = ("regularization=[max_norm]", "regularization.max_norm.max_norm=0.5")
    words = (*words, f"optimizer={optimizer}", "optimizer.full_batch=true", "optimizer.lr=0.1")
    run, again = trained(*words, "epochs=1"), trained(*words, "epochs=2")
    assert max(rows(w).max() for w in weights(run.model)) == pytest.approx(0.5, rel=1e-4)
    batch = run.preview(len(run.train_split))
    loss = nn.functional.cross_entropy(run.model(batch.images), batch.targets)
    assert again.progress.history[1]["train_loss"] == pytest.approx(loss.item(), rel=1e-4)


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


# -- refusals -------------------------------------------------------------------------------------------------------


def test_norms_in_a_normalized_network(cli):
    """A network that has norms is refused, with one that has none."""
    code, _, err = cli("model=resnet20", "regularization=[batchnorm]", "data.limit=200")
    line = (
        "regularization=[batchnorm]: ResNet has norms already (stem.norm is a BatchNorm2d); use a model that has "
        "none, e.g. model=convnet, or leave batchnorm out"
    )
    assert code == 2 and line in err and "Traceback" not in err


def test_two_norms(cli):
    """The second norm of a stack is refused, and named with the first."""
    code, _, err = cli("regularization=[batchnorm,dropout,groupnorm]", "data.limit=200")
    line = "regularization=[batchnorm,groupnorm]: both put norms after the same layers; leave one of them out"
    assert code == 2 and line in err and "has norms already" not in err


@pytest.mark.parametrize(
    "kind",
    [
        *(nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4)),
        *(torchvision.ops.FrozenBatchNorm2d(4), GhostBatchNormLayer(4, 2)),
    ],
    ids=lambda kind: type(kind).__name__,
)
@pytest.mark.parametrize("name", NORMS)
def test_every_kind_of_norm_is_seen(name, kind):
    """Whatever kind of norm a network has, and however deep inside, all four items see it."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(kind, nn.ReLU()), nn.Flatten(), nn.Linear(144, 3))
    item = NORMS[name](**KEYS.get(name, {}))
    context = Context(composed(), model, 1, 1, 8, 8, 3, 100, True, {name: item}, {})
    assert item.check(context) == (
        f"regularization=[{name}]: Sequential has norms already (1.0 is a {type(kind).__name__}); use a model that "
        f"has none, e.g. model=convnet, or leave {name} out"
    )


@pytest.mark.parametrize("name", NORMS)
def test_no_place(name):
    """A network of one layer has no place for a norm."""
    (line,) = lines("model=mlp", "model.hidden=[]", f"regularization=[{name}]")
    assert line == (
        f"regularization=[{name}]: MLP has no convolution or linear layer before its last; use a deeper model, e.g. "
        f"model=convnet, or leave {name} out"
    )


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("model=convnet", "model.channels=[12,20]", "regularization=[groupnorm]"),
            "regularization.groupnorm.num_groups=8: the 12 channels of conv1 cannot be cut into 8 equal groups; "
            "use one of 1, 2, 4",
        ),
        (
            ("model=mlp", "model.hidden=[16,8]", "regularization=[groupnorm]"),
            "regularization.groupnorm.num_groups=8: the 8 features of linear2 cannot be cut into 8 equal groups of two "
            "or more; use one of 1, 2, 4",
        ),
        (
            ("model=mlp", "model.hidden=[1]", "regularization=[groupnorm]"),
            "regularization.groupnorm.num_groups=8: the 1 features of linear1 cannot be cut into 8 equal groups of two "
            "or more; use regularization=[batchnorm]",
        ),
        (
            ("model=mlp", "model.hidden=[4,1]", "regularization=[layernorm]"),
            "regularization=[layernorm]: linear2 gives one feature, which would always be normalized to 0; "
            "use a wider layer, or regularization=[batchnorm]",
        ),
        (
            ("batch_size=1", "regularization=[batchnorm]"),
            "batch_size=1, accumulate=1: one image has no variance to normalize by; give at least 2 images a "
            "micro-batch, or use regularization=[groupnorm]",
        ),
        (
            ("batch_size=16", "accumulate=9", "regularization=[ghost_batchnorm]"),
            "batch_size=16, accumulate=9: one image has no variance to normalize by; give at least 2 images a "
            "micro-batch, or use regularization=[groupnorm]",
        ),
        (
            ("model=mlp", "regularization=[weight_standardization]"),
            "regularization=[weight_standardization]: MLP has no convolution before its last layer; use a model that "
            "has, e.g. model=convnet",
        ),
        (
            ("model=custom", "model._target_=torch.nn.Identity", "regularization=[max_norm]"),
            "regularization=[max_norm]: Identity has no linear layer or convolution; use another model or leave "
            "max_norm out",
        ),
    ],
)
def test_refusals(overrides, line):
    """What cannot work is refused in one line with the way out."""
    assert lines(*overrides) == [line]


@pytest.mark.parametrize("overrides", [("batch_size=2",), ("batch_size=16", "accumulate=8")])
def test_two_images_are_enough(overrides):
    """Micro-batches of two images have statistics."""
    run = make(*CONVNET, "regularization=[batchnorm]", *overrides)
    Resources().preflight(check(composed("data.limit=200", *CONVNET, "regularization=[batchnorm]", *overrides)))
    run.model.train()
    assert all(run.loss(part).isfinite() for part in run.next_batch().split(run.accumulate))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("batchnorm.momentum", "0", "must be above 0"),
        ("batchnorm.momentum", "1.5", "must be at most 1"),
        ("batchnorm.eps", "0", "must be above 0"),
        ("batchnorm.affine", "7", "must be true or false"),
        ("ghost_batchnorm.ghost_batch_size", "1", "must be at least 2"),
        ("ghost_batchnorm.momentum", "-1", "must be above 0"),
        ("groupnorm.num_groups", "0", "must be at least 1"),
        ("groupnorm.num_groups", "2.5", "must be a whole number"),
        ("groupnorm.eps", "-1", "must be above 0"),
        ("layernorm.eps", "nan", "must be a finite number"),
        ("weight_standardization.eps", "0", "must be above 0"),
        ("max_norm.max_norm", "0", "must be above 0"),
        ("max_norm.max_norm", "inf", "must be a finite number"),
    ],
)
def test_ranges(key, value, complaint):
    """Values out of range are refused before anything is built."""
    item = key.partition(".")[0]
    with pytest.raises(Refused) as refused:
        check(composed(f"regularization=[{item}]", f"regularization.{key}={value}"))
    (line,) = refused.value.lines
    assert line.startswith(f"regularization.{key}=") and complaint in line
