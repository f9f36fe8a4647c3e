"""Norms and ghost batches against NumPy and torch's own layers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, group_norm, layer_norm, linear, max_pool2d

from runner.regularization.ghost_batchnorm import GhostBatchNormLayer, pieces
from runner.regularization.norms import hidden_layers
from tests.shared.norms import NORMS, built, images, networks


def jittered(model):
    """Norms whose weights, biases and running statistics are no longer ones and zeros."""
    draws = torch.Generator().manual_seed(2)
    for name, value in model.state_dict().items():
        if ".norm." in name and value.ndim:
            value.copy_(torch.rand(value.shape, generator=draws) + 0.5)
    return model


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
    for count in range(1, 70):
        for size in (2, 3, 8, 32, 100):
            found = pieces(count, size)
            assert sum(found) == count and max(found) - min(found) <= 1
            assert min(found) >= min(2, count)
            if size > 2 or count % 2 == 0:
                assert max(found) <= size and (len(found) == 1 or count > (len(found) - 1) * size)
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
