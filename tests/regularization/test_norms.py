"""Norms as items of the stack: places, parameters, refusals."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import batch_norm, group_norm, layer_norm, linear

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.context import Context
from runner.model.stages import stage_parameters
from runner.optimizer.param_groups import parameter_groups
from runner.regularization.base import weights
from runner.regularization.ghost_batchnorm import GhostBatchNormLayer
from runner.regularization.groupnorm import GroupNorm
from runner.regularization.norms import hidden_layers
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.norms import CONVNET, KEYS, NORMS, built, images, networks
from tests.shared.training import make, trained


def lines(*overrides):
    """What a rehearsal refuses."""
    config = check(composed("data.limit=200", *overrides))
    with pytest.raises(Refused) as refused:
        Resources().preflight(config)
    return refused.value.lines


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
