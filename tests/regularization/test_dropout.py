"""Dropout: its expectation, places, generator and test passes."""

import math

import pytest
import torch
from torch import nn

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.regularization.dropout import Dropout, DropoutLayer
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.draws import seeded
from tests.shared.stack_items import networks


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_expectation(inverted, p):
    """The mean of 20,000 training passes through a layer is its test pass, in float64, within five standard errors."""
    draws, passes = seeded(1), 20_000
    layer = nn.Sequential(nn.Identity(), nn.Linear(6, 4).double())
    x = torch.rand(6, generator=draws, dtype=torch.float64) + 0.5
    wrapped = nn.Sequential(nn.Linear(6, 6).double(), layer[1])  # dropout goes before every layer but the first
    Dropout(p, inverted).modify(wrapped, draws)
    wrapped[0] = nn.Identity()
    with torch.no_grad():
        wrapped.train()
        mean = wrapped(x.expand(passes, 6)).mean(0)
        test = wrapped.eval()(x)
        clean = nn.functional.linear(x, layer[1].weight, layer[1].bias)
    scale = 1 / (1 - p) if inverted else 1.0
    spread = ((layer[1].weight * x * scale) ** 2 * p * (1 - p)).sum(1).sqrt() / math.sqrt(passes)
    assert ((mean - test).abs() < 5 * spread).all()
    assert ((mean - clean).abs() < 5 * spread).all() == inverted  # only the plain form changes the test pass
    unscaled = nn.functional.linear(x * (1 - p if inverted else 1), layer[1].weight, layer[1].bias)
    assert ((unscaled - test).abs() > 5 * spread).any()  # the bound would see a forgotten factor


def test_dropout_zeros():
    """A share p of the activations, each on its own, is zero; kept ones are divided by 1 - p, or stay."""
    x = torch.ones(400, 500)
    for inverted, kept in ((True, 1 / 0.7), (False, 1.0)):
        y = DropoutLayer(0.3, inverted, seeded(2))(x)
        assert y.unique().tolist() == pytest.approx([0.0, kept])
        bound = 5 * math.sqrt(0.3 * 0.7 / x.numel())
        assert abs((y == 0).double().mean().item() - 0.3) < bound
        for axis in (0, 1):  # no whole row or column shares a draw
            shares = (y == 0).double().mean(axis)
            assert 0.5 < shares.std().item() / math.sqrt(0.3 * 0.7 / x.shape[axis]) < 1.5


def test_dropout_gradient():
    """Dropped activations get no gradient; kept ones the scale."""
    x = torch.ones(50, requires_grad=True)
    y = DropoutLayer(0.5, True, seeded())(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and 0 in x.grad and 2 in x.grad


def convolutions(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("network", "where", "places"),
    [
        ("mlp", "linear", ["linear2", "head"]),
        ("mlp", "conv", []),
        ("mlp", "head", ["head"]),
        ("convnet", "linear", ["hidden", "head"]),
        ("convnet", "conv", ["conv2"]),
        ("convnet", "head", ["head"]),
        ("resnet20", "linear", ["head"]),
        ("resnet20", "head", ["head"]),
    ],
)
def test_dropout_places(network, where, places):
    """Dropout goes before the layers that `where` names, and nowhere else."""
    model, item = networks()[network], Dropout(where=where)
    assert item.places(model) == places
    item.modify(model, seeded())
    found = [name.removesuffix(".dropout") for name, m in model.named_modules() if isinstance(m, DropoutLayer)]
    assert found == places


def test_dropout_before_convolutions_of_a_resnet():
    """`conv` on ResNet-20 goes before all 19 convolutions but the first, which reads the images."""
    model = networks()["resnet20"]
    names = convolutions(model)
    assert len(names) == 19 and Dropout(where="conv").places(model) == names[1:]


def test_dropout_drops_what_the_layer_reads():
    """The layer sees zeros at its input; the layer before is untouched."""
    model = networks()["mlp"]
    Dropout(0.5).modify(model, seeded())
    seen = {}
    for name in ("linear1", "linear2", "head"):
        layer = model.get_submodule(name)
        layer.register_forward_pre_hook(lambda m, inputs, name=name: seen.update({name: inputs[0]}))
    model.train()(torch.ones(64, 1, 8, 8))
    assert (seen["linear1"] == 1).all()
    assert (seen["linear2"] == 0).double().mean() > 0.4 and (seen["head"] == 0).double().mean() > 0.4


def test_dropout_that_has_no_place_is_refused():
    """A network without such a layer is refused with the way out."""
    config = check(composed("model=mlp", "regularization=[dropout]", "regularization.dropout.where=conv"))
    with pytest.raises(Refused) as refused:
        Resources().preflight(config)
    assert refused.value.lines == [
        "regularization.dropout.where=conv: MLP has no such layer after its first; use another of linear, conv, head"
    ]


def test_dropout_draws_from_its_own_generator():
    """Training passes repeat with the generator's seed and leave torch's own stream alone."""
    passes = []
    for seed in (5, 5, 6):
        torch.manual_seed(0)
        model = networks()["convnet"]
        Dropout(0.5, where="conv").modify(model, seeded(seed))
        torch.manual_seed(len(passes))
        state = torch.get_rng_state()
        passes.append(model.train()(torch.ones(4, 1, 8, 8)))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(passes[0], passes[1]) and not torch.equal(passes[0], passes[2])


def test_dropout_in_evaluation():
    """Evaluation is deterministic: inverted changes nothing, plain multiplies what layers read by 1 - p."""
    images = torch.rand(4, 1, 8, 8)
    for inverted in (True, False):
        torch.manual_seed(0)
        model = networks()["mlp"].eval()
        clean = model(images)
        Dropout(0.25, inverted).modify(model, None)
        noisy = model.eval()(images)
        assert torch.equal(noisy, model(images))
        hidden = model.linear2.weight @ (0.75 * model.relu1(model.linear1(images.flatten(1)))).T
        by_hand = model.head.weight @ (0.75 * torch.relu(hidden.T + model.linear2.bias)).T
        expected = clean if inverted else by_hand.T + model.head.bias
        torch.testing.assert_close(noisy, expected)


def test_dropout_keeps_the_names_of_weights():
    """A network with dropout has the same state, so that weights fit both."""
    for model in networks().values():
        before = list(model.state_dict())
        Dropout(where="head").modify(model, None)
        assert list(model.state_dict()) == before


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_dropout_range(p):
    """p is at least 0 and below 1."""
    with pytest.raises(ConfigError, match=f"regularization.dropout.p={p}: must be at least 0 and below 1"):
        Dropout(p)
