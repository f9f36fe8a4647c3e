"""The stack's items: each against its formula, its statistics, or torch's own version."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.execution.eager import EagerProgram
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.resnet import ResNet
from runner.regularization.base import Item, soft, weights
from runner.regularization.dropout import Dropout, DropoutLayer
from runner.regularization.l2 import L2
from runner.regularization.label_smoothing import LabelSmoothing, smooth_labels
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.configs import GROUP_OPTIONS, composed, split
from tests.shared.draws import seeded
from tests.shared.training import make

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
ITEMS = [split(option)[1] for option in GROUP_OPTIONS if option.startswith("regularization/")]


def networks():
    return {
        "mlp": MLP([16, 8], **SHAPE),
        "convnet": ConvNet([4, 4], 8, **SHAPE),
        "resnet20": ResNet(20, **SHAPE),
    }


# -- every item -----------------------------------------------------------------------------------------------------

STRONGER = {"max_norm": ["regularization.max_norm.max_norm=0.5"]}  # at its default nothing is that long so early
PLACE = {"stochastic_depth": "resnet20"}  # which has residual branches


@pytest.mark.parametrize("name", ITEMS)
def test_each_item_changes_training(name):
    """With the item the same run ends with other weights than without."""
    base = (f"model={PLACE.get(name, 'convnet')}", "batch_size=16", "epochs=1", "optimizer=sgd", "data.limit=100")
    found = []
    for stack, more in ((f"[{name}]", STRONGER.get(name, [])), ("[]", [])):
        config = check(composed(*base, f"regularization={stack}", *more))
        builder, noise = Resources(), seeded()
        parts = builder.parts(config, builder.splits(config), torch.device("cpu"), noise)
        run = type(make())(config, parts, torch.device("cpu"), noise)
        train([run], EagerProgram())
        found.append(dict(run.model.named_parameters()))
    shared = found[0].keys() & found[1].keys()
    assert shared and any(not torch.allclose(found[0][k], found[1][k], rtol=1e-6, atol=1e-7) for k in shared)


@pytest.mark.parametrize("name", ITEMS)
def test_each_item_has_a_hook(name):
    """An item overrides at least one hook, and only such are called."""
    item = Resources().stack(check(composed(f"regularization=[{name}]")), "regularization")[name]
    assert any(item.overrides(hook) for hook in ("modify", "mix", "penalty", "output_penalty", "after_step"))
    assert not any(Item().overrides(hook) for hook in ("modify", "mix", "penalty", "output_penalty", "after_step"))


def test_base_does_nothing():
    """The hooks of the base leave model, images and targets alone."""
    model, images, targets = MLP([4], **SHAPE), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Item().modify(model, None)
    Item().after_step(model)
    same = Item().mix(images, targets, 3, seeded())
    assert same[0] is images and same[1] is targets
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()].count(DropoutLayer) == 0


# -- dropout --------------------------------------------------------------------------------------------------------


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


# -- label smoothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_torchs(smoothing):
    """Cross-entropy with smoothed targets is torch's `cross_entropy(label_smoothing=)`."""
    logits, labels = torch.randn(32, 5, generator=seeded()).double(), torch.arange(32) % 5
    targets = LabelSmoothing(smoothing).mix(torch.zeros(32, 1, 1, 1), labels, 5, seeded())[1]
    expected = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, targets.double()), expected, rtol=1e-7, atol=1e-7)


def test_label_smoothing_formula():
    """Labels and soft targets alike become (1 - s) t + s / K, rows that sum to one."""
    labels = torch.tensor([2, 0])
    np.testing.assert_allclose(smooth_labels(labels, 0.3, 3), [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], rtol=1e-6)
    mixed = torch.tensor([[0.6, 0.4, 0.0]])
    np.testing.assert_allclose(smooth_labels(mixed, 0.3, 3), 0.7 * mixed.numpy() + 0.1, rtol=1e-6)
    torch.testing.assert_close(smooth_labels(mixed, 0.3, 3).sum(1), torch.ones(1))


def test_label_smoothing_leaves_images_and_generator():
    """Images pass through; nothing is drawn."""
    images, draws = torch.rand(3, 1, 2, 2), seeded()
    state = draws.get_state()
    assert LabelSmoothing(0.1).mix(images, torch.tensor([0, 1, 2]), 3, draws)[0] is images
    assert torch.equal(state, draws.get_state())


def test_soft():
    """Labels become one-hot rows; probabilities stay as they are."""
    np.testing.assert_array_equal(soft(torch.tensor([1, 0]), 3), [[0, 1, 0], [1, 0, 0]])
    given = torch.rand(2, 3)
    assert soft(given, 3) is given


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_range(smoothing):
    """smoothing is at least 0 and below 1."""
    with pytest.raises(ConfigError, match="regularization.label_smoothing.smoothing=.*at least 0 and below 1"):
        LabelSmoothing(smoothing)


# -- L2 -------------------------------------------------------------------------------------------------------------


def test_l2_formula():
    """weight / 2 x the sum of squares of matrices and kernels, no biases and no norms; its gradient is weight x w."""
    for model in networks().values():
        penalty = L2(0.02).penalty(model)
        kernels = {n: p for n, p in model.named_parameters() if p.ndim >= 2}
        assert set(kernels) < set(dict(model.named_parameters()))
        squares = sum(np.square(p.detach().double().numpy()).sum() for p in kernels.values())
        assert penalty.item() == pytest.approx(0.01 * squares, rel=1e-5)
        penalty.backward()
        for name, p in model.named_parameters():
            if name in kernels:
                torch.testing.assert_close(p.grad, 0.02 * p.detach())
            else:
                assert p.grad is None


def test_l2_leaves_frozen_weights_out():
    """Weights that are not trained are not in the penalty."""
    model = networks()["mlp"]
    model.linear1.weight.requires_grad_(False)
    assert len(weights(model)) == 2
    rest = model.linear2.weight.square().sum() + model.head.weight.square().sum()
    torch.testing.assert_close(L2(2.0).penalty(model), rest)
