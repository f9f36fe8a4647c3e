"""The contract of every optimizer: each YAML in conf/optimizer joins it by being there."""

import importlib.util
import io

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from runner.optimizer.param_groups import parameter_groups, scaled
from runner.sweep.compose.explain import CONF
from tests.shared.optimizer_problems import build, problem

NAMES = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
FULL = [name for name in NAMES if OmegaConf.load(CONF / "optimizer" / f"{name}.yaml").get("full_batch")]
MORE = {"library": ("optimizer.name=AdaBelief",)}  # what an option cannot do without
VARIANTS = [(name, (f"optimizer={name}", *MORE.get(name, ()))) for name in NAMES]
VARIANTS += [
    ("adam uncorrected", ("optimizer=adam", "optimizer.bias_correction=false")),
    ("sam around adam", ("optimizer=sam", "optimizer@optimizer.base=adam")),
    ("sam around muon", ("optimizer=sam", "optimizer@optimizer.base=muon")),
]
HAVE_LIBRARY = importlib.util.find_spec("pytorch_optimizer") is not None
needs_library = pytest.mark.skipif(not HAVE_LIBRARY, reason="pytorch-optimizer is not installed")


def variant(name, words):
    return pytest.param(words, id=name, marks=[needs_library] if words[0] == "optimizer=library" else [])


every = pytest.mark.parametrize("words", [variant(*case) for case in VARIANTS])


def vector(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@every
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_loss_falls(words, kind):
    """Ten steps at the default rate make the loss smaller, for dense layers and for channels-last kernels."""
    model, objective = problem(kind=kind)
    optimizer = build(model, *words)
    before = objective.value()
    for _ in range(10):
        objective()
        optimizer.step(objective)
    assert objective.value() < before


@every
def test_resuming_changes_nothing(words):
    """Five steps, a saved state read as plain data, and five more are ten steps, bit for bit."""
    whole, objective = problem()
    optimizer = build(whole, *words)
    for _ in range(10):
        objective()
        optimizer.step(objective)

    first, objective = problem()
    optimizer = build(first, *words)
    for _ in range(5):
        objective()
        optimizer.step(objective)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)

    second, objective = problem(seed=1)
    optimizer = build(second, *words)
    second.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for _ in range(5):
        objective()
        optimizer.step(objective)
    assert torch.equal(vector(second), vector(whole))


@every
def test_the_rate_is_that_of_the_groups(words):
    """A schedule that sets the rate of every group to zero stops every optimizer."""
    model, objective = problem()
    optimizer = build(model, *words)
    before = vector(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    objective()
    optimizer.step(objective)
    assert torch.equal(vector(model), before)


@pytest.mark.parametrize("name", NAMES)
def test_lr_scale_multiplies_every_rate(name):
    """Each option has a rate, and the rate that steps is the option's times `lr_scale`."""
    if name == "library" and not HAVE_LIBRARY:
        pytest.skip("pytorch-optimizer is not installed")
    model, _ = problem()
    words = (f"optimizer={name}", *MORE.get(name, ()))
    plain, scaled = build(model, *words), build(model, *words, "lr_scale=0.5")
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in (plain, scaled)]
    assert rates[1] == [rate / 2 for rate in rates[0]] and all(rate > 0 for rate in rates[0])


# -- weight decay -----------------------------------------------------------------------------------------------------

DECOUPLED = {"adamw", "lion", "muon", "adafactor"}
DECAYING = [
    (name, key)
    for name in NAMES
    for key in ("weight_decay", "base.weight_decay")
    if OmegaConf.select(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"), key) is not None
    or (name, key[:4]) == ("sam", "base")
]


@pytest.mark.parametrize(("name", "key"), DECAYING)
def test_weight_decay_is_coupled_or_not_and_spares_vectors(name, key):
    """With no gradient a decoupled decay shrinks matrices by lr * decay, an adaptive coupled one does not; biases
    stay, but for `no_decay=false`."""
    model, objective = problem()
    optimizer = build(model, f"optimizer={name}", f"optimizer.{key}=0.1")
    matrix, bias = list(model.parameters())[:2]
    lr, before, spared = optimizer.param_groups[0]["lr"], matrix.detach().clone(), bias.detach().clone()

    def nothing():
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        return torch.zeros(())

    nothing()
    optimizer.step(nothing)
    assert torch.equal(bias, spared) and not torch.equal(matrix, before)
    shrunk = torch.allclose(matrix, before * (1 - lr * 0.1), rtol=1e-6, atol=0)
    if name in DECOUPLED:
        assert shrunk
    elif name not in ("sgd", "momentum", "nesterov", "radam", "sam"):  # whose first step is the same either way
        assert not shrunk

    optimizer = build(model, f"optimizer={name}", f"optimizer.{key}=0.1", "optimizer.no_decay=false")
    nothing()
    optimizer.step(nothing)
    assert not torch.equal(bias, spared)


# -- the rate of norms' biases ----------------------------------------------------------------------------------------


def normed():
    """Layers with a bias and norms of three kinds, one of which has no bias that trains."""
    norms = (nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4))
    norms[2].bias.requires_grad_(False)
    return nn.Sequential(*(part for norm in norms for part in (nn.Linear(4, 4), norm))).double()


@pytest.mark.parametrize("no_decay", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_norm_biases_have_a_rate_of_their_own(kind, no_decay):
    """With a multiplier of 64 the biases of norms move 64 times as far and decay as far as before; all else stays."""
    moved, decayed = [], []
    for factor in (1.0, 64.0):
        for gradient, into in ((1.0, moved), (0.0, decayed)):
            model = normed()
            for parameter in model.parameters():
                nn.init.constant_(parameter, 1.0)
            keys = {"lr": 1e-3, "weight_decay": 0.0 if gradient else 0.1}
            groups = parameter_groups(model, dict.fromkeys([str(i) for i in range(6)], 1.0), no_decay, factor)
            optimizer = kind([scaled(group, keys) for group in groups], **keys)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, gradient)
            optimizer.step()
            into.append(
                {name: 1 - parameter.detach().flatten()[0].item() for name, parameter in model.named_parameters()}
            )
    fast = {"1.bias", "3.bias"}
    assert {name: moved[1][name] / moved[0][name] for name in moved[0] if name != "5.bias"} == pytest.approx(
        {name: 64.0 if name in fast else 1.0 for name in moved[0] if name != "5.bias"}
    )
    assert moved[0]["5.bias"] == moved[1]["5.bias"] == 0
    assert decayed[1] == pytest.approx(decayed[0], rel=1e-9)
    assert all((decayed[1][name] == 0) == (no_decay and name.startswith(("1", "3"))) for name in fast | {"1.weight"})


def test_norm_biases_need_a_norm_and_a_decay_in_reach(cli):
    """A network without norms, or a decay that lies elsewhere, is refused in a line."""
    code, _, err = cli("model=mlp", "optimizer.norm_bias_lr_scale=2")
    assert code == 2 and "norm_bias_lr_scale=2: no norm of this network has a bias that trains; add" in err
    words = ("optimizer=sam", "optimizer.norm_bias_lr_scale=2", "regularization=[batchnorm]", "dry_run=true")
    assert cli("model=mlp", *words)[0] == 0
    code, _, err = cli("model=mlp", *words, "optimizer.no_decay=false")
    assert code == 2 and "norm_bias_lr_scale: this optimizer has no weight_decay of its own" in err
