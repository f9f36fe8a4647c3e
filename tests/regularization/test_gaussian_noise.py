"""Gaussian noise on activations: statistics of training passes, places, and its generator."""

import copy
import math

import pytest
import torch
from scipy import stats
from torch import nn

from runner.core.errors import ConfigError
from runner.model.noise import sampled
from runner.regularization.gaussian_noise import GaussianNoise, GaussianNoiseLayer
from tests.shared.draws import seeded
from tests.shared.noise_weights import PASSES, agree, convolution, linear, lone, network


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
