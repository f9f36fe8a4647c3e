"""DropConnect at test time: mean weights and Gaussian inference against integrals and sampling."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn.functional import conv2d

from runner.model.noise import sampled
from runner.regularization.dropconnect import DropConnect, quadrature_mean, relu_mean
from tests.shared.draws import seeded
from tests.shared.noise_weights import NETWORKS, network


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
