"""Stochastic depth and fractional max pooling: whose branches and regions are drawn, and what testing makes of them."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.functional import fractional_max_pool2d
from torchvision import models, ops
from torchvision.models import convnext, efficientnet, mobilenetv2, resnet, swin_transformer

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.convnet import ConvNet
from runner.model.noise import sampled
from runner.model.resnet import BasicBlock, ResNet
from runner.model.stages import stage_parameters, stages
from runner.model.torchvision_model import build as torchvision_model
from runner.model.wide_resnet import PreActivationBlock, WideResNet
from runner.regularization import fractional_max_pool as fmp
from runner.regularization.fractional_max_pool import FractionalMaxPool, FractionalPooling
from runner.regularization.stochastic_depth import MODELS, DropPath, StochasticDepth, blocks
from runner.store import checkpoint
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import GROUP_OPTIONS, REQUIRED, composed, yaml_of
from tests.shared.draws import seeded
from tests.shared.training import CPU, numbers, splits
from tests.shared.training import weights as values

PASSES = 20_000
SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
OPTIONS = [option for option in GROUP_OPTIONS if option.startswith("model/") and option not in REQUIRED]
NODES = {option.partition("/")[2]: yaml_of(option) for option in OPTIONS}


def bound(count):
    """Standard deviations that one set of `count` normal values in a million exceeds."""
    return stats.norm.isf(1e-6 / (2 * count))


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


def shifted(model):
    """The model with norms whose biases are not zero, so that a branch that is zero midway is not zero at its end."""
    for norm in layers(model, nn.BatchNorm2d):
        nn.init.uniform_(norm.bias, 0.5, 1)
    return model


def meta(name, size=32):
    with torch.device("meta"):
        return torchvision_model(name, in_channels=3, num_classes=3, image_size=size)


def built(node, size):
    with torch.device("meta"):
        return Resources().model({"model": node, "seed": 0, "trust": []}, splits(side=size, channels=3))


@pytest.fixture(scope="module")
def option_models():
    """The network of every file in conf/model but the two that leave it to the user, on the meta device, for images
    of 96 pixels."""
    return {name: built(node, 96) for name, node in NODES.items()}


# -- stochastic depth: the layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("per", "mode"), [("sample", "row"), ("batch", "batch")])
@pytest.mark.parametrize("shape", [(40, 3, 2, 2), (40, 5, 4)])
def test_drop_path_is_torchvisions(per, mode, shape):
    """For the same draws the layer is `torchvision.ops.stochastic_depth`, whose gradient it has too."""
    for seed in range(5):
        x = torch.randn(shape, generator=seeded(9), dtype=torch.float64).requires_grad_()
        torch.manual_seed(seed)
        expected = ops.stochastic_depth(x, 0.3, mode, training=True)
        found = DropPath(0.3, per, seeded(seed))(x)
        assert torch.equal(found, expected)
        weight = torch.randn(shape, generator=seeded(8), dtype=torch.float64)
        grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
        assert torch.equal(*grads)


def branch_of(block, x):
    """What a block adds to its shortcut, from a forward pass without noise."""
    if isinstance(block, PreActivationBlock):
        return block(x) - block.shortcut(block.before(x))
    return block(x) - x  # of the others only blocks with a plain shortcut are asked


BLOCKS = {
    "wide_resnet": lambda: PreActivationBlock(4, 4, 1),
    "wide_resnet with a convolution as shortcut": lambda: PreActivationBlock(4, 6, 1),
    "resnet20": lambda: BasicBlock(4, 4, 1, "A"),
    "resnet18": lambda: resnet.BasicBlock(4, 4),
    "mobilenet_v2": lambda: mobilenetv2.InvertedResidual(4, 4, 1, 2),
    "convnext": lambda: convnext.CNBlock(4, 1.0, 0.2),
}


@pytest.mark.parametrize("name", list(BLOCKS))
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_expectation(name, p):
    """The mean of 20,000 random passes through a block, before the nonlinearity that follows the addition, is its test
    pass, in float64: all outputs together are within what chance allows."""
    torch.manual_seed(0)
    block = shifted(nn.Sequential(BLOCKS[name]())).double().eval()
    x = torch.rand(1, 4, 3, 3, generator=seeded(1), dtype=torch.float64) + 0.5
    if name in ("resnet20", "resnet18"):
        x += 1e3  # the sum stays positive, where the ReLU behind it does nothing
        last = block[0].bn2 if name == "resnet18" else block[0].branch.norm2
        last.weight.data.fill_(1e-3)
    with torch.no_grad():
        clean, branch = block(x), branch_of(block[0], x)
        StochasticDepth(p).modify(block, seeded(2))
        test = block.eval()(x)
        with sampled(block, seeded(3)):
            passes = block(x.expand(PASSES, -1, -1, -1))
    assert torch.equal(test, clean)
    deviation = branch.abs() * math.sqrt(p / (1 - p) / PASSES)
    error = (passes.mean(0, keepdim=True) - test).abs()
    rounding = 1e-12 * x.max()
    assert (error < bound(test.numel()) * deviation + rounding).all()
    assert (p * branch.abs() > bound(test.numel()) * deviation + rounding).any()  # would see a forgotten division
    assert len(passes.flatten(1).round(decimals=9).unique(dim=0)) == 2  # dropped, or kept


@pytest.mark.parametrize("decay", ["linear", "uniform"])
def test_survival_follows_the_rule(decay):
    """Block l of the L of a network is dropped with probability p l / L (or p), the last that a forward pass meets
    with p: frequencies of 20,000 draws are within binomial bounds, all blocks together."""
    p, expected_blocks = 0.6, {ResNet(20, **SHAPE): 9, WideResNet(16, 1, **SHAPE): 6, meta("resnet18"): 8}
    for model, count in expected_blocks.items():
        StochasticDepth(p, decay).modify(model, seeded())
        drops = layers(model, DropPath)
        order = []
        for drop in drops:
            drop.register_forward_pre_hook(lambda drop, inputs, order=order: order.append(drop))
        images = torch.zeros(2, next(model.parameters()).shape[1], 32, 32, device=next(model.parameters()).device)
        model.eval()(images)
        assert order == drops and len(drops) == count
        for number, drop in enumerate(drops, start=1):
            drop.noise = seeded(number)
            wanted = p * number / count if decay == "linear" else p
            share = (drop.train()(torch.ones(PASSES, 1, 1, 1)) == 0).double().mean().item()
            assert abs(share - wanted) < bound(23) * math.sqrt(wanted * (1 - wanted) / PASSES)


def test_two_samples_differ():
    """Equal images of a batch meet different branches with `per=sample`, the same ones with `per=batch`."""
    images = torch.rand(1, 1, 8, 8, generator=seeded()).expand(64, -1, -1, -1)
    for per, distinct in (("sample", 30), ("batch", 1)):
        torch.manual_seed(0)
        model = ResNet(20, **SHAPE)
        StochasticDepth(0.5, per=per).modify(model, seeded())
        with torch.no_grad(), sampled(model.eval(), seeded(1)):
            first, second = model(images), model(images)
        found = len(np.unique(first.numpy().round(4), axis=0))
        assert found >= distinct if per == "sample" else found == 1
        assert not torch.allclose(first, second)


# -- stochastic depth: the families ---------------------------------------------------------------------------------

CNB = convnext.CNBlockConfig
FUSED = efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 2)
MBC = efficientnet.MBConvConfig(2, 3, 2, 8, 12, 2)
NETWORKS = {
    "resnet20": (lambda: ResNet(20, **SHAPE), 9, 9),
    "wide_resnet": (lambda: WideResNet(16, 1, **SHAPE), 6, 6),
    "resnet18": (lambda: resnet.ResNet(resnet.BasicBlock, [2, 1, 1, 1], num_classes=3), 5, 5),
    "resnext": (lambda: resnet.ResNet(resnet.Bottleneck, [3, 1, 1, 1], groups=2, width_per_group=4), 6, 6),
    "regnet": (lambda: models.regnet_x_400mf(num_classes=3), 22, 22),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=3), 10, 10),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=3), 6, 6),
    "mnasnet": (lambda: models.mnasnet0_5(num_classes=3), 10, 10),
    "efficientnet_b0": (lambda: models.efficientnet_b0(num_classes=3), 9, 9),
    "efficientnet_v2": (lambda: models.EfficientNet([FUSED, MBC], 0.0, 0.3, num_classes=3), 3, 3),
    "convnext": (lambda: models.ConvNeXt([CNB(8, 16, 2), CNB(16, None, 2)], num_classes=3), 4, 4),
    "swin": (lambda: models.SwinTransformer([2, 2], 8, [2, 2], [1, 2], [2, 2], num_classes=3), 4, 4),
    "swin_v2": (
        lambda: models.SwinTransformer(
            *([2, 2], 8, [2], [1], [2, 2]), num_classes=3, block=swin_transformer.SwinTransformerBlockV2
        ),
        *(2, 2),
    ),
    "vit": (lambda: models.VisionTransformer(32, 8, 3, 2, 8, 16, num_classes=3), 3, 6),
    "maxvit": (lambda: models.MaxVit((32, 32), 8, 4, [8, 8], [2, 1], 4, 0.5, num_classes=3), 3, 9),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_families(name):
    """In every family each block's branches are drawn, and where nearly all are dropped a block with a plain shortcut
    gives what it got; the test pass and the state's names are those of the network without the item."""
    torch.manual_seed(0)
    make, count, drops = NETWORKS[name]
    model = shifted(make()).eval()
    names = list(model.state_dict())
    channels = 1 if name in ("resnet20", "wide_resnet") else 3
    images = torch.rand(2, channels, 32, 32, generator=seeded())
    found, plain = blocks(model), []
    assert len(found) == count

    def compare(block, inputs, output):
        if inputs[0].shape == output.shape:
            plain.append(torch.equal(inputs[0], output))

    for block, _ in found:
        block.register_forward_hook(compare)
    with torch.no_grad():
        clean = model(images)
        assert len(plain) >= count - 4 and not any(plain)
        StochasticDepth(1 - 1e-9, decay="uniform").modify(model, seeded())
        assert list(model.state_dict()) == names
        assert len(layers(model, DropPath)) == drops
        assert not any(isinstance(module, ops.StochasticDepth) for block, _ in found for module in block.modules())
        assert torch.equal(model.eval()(images), clean)
        plain.clear()
        with sampled(model, seeded(1)):
            model(images)
    assert len(plain) >= count - 4 and all(plain)


def test_the_models_that_the_line_names(option_models):
    """Exactly the models that the refusal names have residual branches."""
    assert {name for name, model in option_models.items() if blocks(model)} == set(MODELS.split(", "))


def test_what_torchvision_set_is_replaced():
    """EfficientNet's own probabilities (0.2 at the end) give way: with p = 0 its training pass is its test pass but
    for norms and dropout."""
    model = meta("efficientnet_b0")
    assert {layer.p for layer in layers(model, ops.StochasticDepth)} > {0.0}
    StochasticDepth(0.4).modify(model, None)
    assert [round(layer.p, 4) for layer in layers(model, DropPath)] == [round(0.4 * i / 9, 4) for i in range(1, 10)]
    StochasticDepth(0.0).modify(block := nn.Sequential(convnext.CNBlock(4, 1.0, 0.9)), seeded())
    x = torch.rand(8, 4, 3, 3, generator=seeded())
    assert torch.equal(block.train()(x), block.eval()(x))


def test_blocks_of_a_users_own():
    """Any module with the children `branch` and `shortcut` is a residual block; one of them alone makes none."""

    class Mine(nn.Module):
        def __init__(self, names):
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(2, 2))

    assert len(blocks(nn.Sequential(Mine(["branch", "shortcut"]), Mine(["branch"]), Mine(["shortcut"])))) == 1


# -- fractional pools: the regions ----------------------------------------------------------------------------------


def graham(u, rows, out, window):
    """First rows of the windows as in the author's code (SparseConvNet, PseudorandomOverlappingFmpTicks)."""
    alpha = (rows - window) / (out - 1)
    return [math.floor((i + u) * alpha) - math.floor(u * alpha) for i in range(out)]


@pytest.mark.parametrize(("rows", "out", "window"), [(28, 14, 3), (14, 7, 3), (28, 19, 2), (8, 4, 3), (55, 27, 4)])
def test_regions_are_grahams(rows, out, window):
    """The windows begin where the author's code lets them begin, for many draws; the smallest window that can move is
    taken."""
    assert fmp.window(rows, out) == window
    u = torch.rand(200, 1, generator=seeded(), dtype=torch.float64)
    found = fmp.starts(u, rows - window, out)
    assert found.tolist() == [graham(x, rows, out, window) for x in u[:, 0].tolist()]
    assert len(found.unique(dim=0)) > 2


def test_windows_leave_nothing_out():
    """For all sizes up to 40 windows begin at one border and end at the other, leave no row out and are the smallest
    that do, or one larger where they could not move otherwise."""
    u = torch.linspace(0, 1, 50)[:-1, None]
    for rows in range(1, 41):
        for out in range(1, rows + 1):
            size = fmp.window(rows, out)
            smallest = math.ceil(rows / out)
            assert smallest <= size <= smallest + 1
            found = fmp.starts(u, rows - size, out)
            assert (found[:, 0] == 0).all() or out == 1
            assert (found[:, -1] == rows - size).all()
            steps = found.diff(dim=1)
            assert (steps >= 1).all() and (steps <= size).all()
            moves = len(found.unique(dim=0)) > 1
            assert moves == (out > 2 and (rows - size) % (out - 1) > 0)
            if size > smallest:
                assert moves and len(fmp.starts(u, rows - smallest, out).unique(dim=0)) == 1


def pool(ratio="auto", samples=1, noise=None, replaced=None):
    return FractionalPooling(replaced or nn.MaxPool2d(2), ratio, samples, noise)


def drawn(layer, x, seed):
    """A training pass, and torch's own pool for the same draws (columns first, and a draw for each channel)."""
    layer.noise = seeded(seed)
    found = layer.train()(x)
    u = torch.rand(len(x), 2, generator=seeded(seed)).flip(1)[:, None].expand(-1, x.shape[1], -1).to(x.dtype)
    size = layer.output_size(x)
    kernel = [fmp.window(rows, out) for rows, out in zip(x.shape[2:], size)]
    return found, fractional_max_pool2d(x, kernel, size, _random_samples=u)


@pytest.mark.parametrize("ratio", ["auto", 0.5, 0.71, 0.8])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(28, 28), (14, 9), (8, 13)])
def test_values_are_torchs(ratio, layout, size):
    """For the same draws values and gradients are those of torch's fractional pool; the size is the replaced pool's,
    or floor(ratio x rows)."""
    x = torch.randn(5, 3, *size, generator=seeded()).to(memory_format=layout).requires_grad_()
    layer = pool(ratio)
    found, expected = drawn(layer, x, 4)
    assert torch.equal(found, expected)
    wanted = nn.MaxPool2d(2)(x).shape[2:] if ratio == "auto" else [math.floor(ratio * rows) for rows in size]
    assert list(found.shape[2:]) == list(wanted)
    weight = torch.randn(found.shape, generator=seeded(7))
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*grads)
    assert not torch.equal(found, drawn(layer, x, 5)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype):
    """Half precision draws the same regions as full precision, and picks its own values exactly."""
    x = torch.randn(5, 3, 28, 28, generator=seeded()).to(dtype)
    found, _ = drawn(pool(), x.float(), 4)
    half = pool(noise=seeded(4))
    half.noise = seeded(4)
    y = half.train()(x)
    assert y.dtype == dtype and torch.equal(y.float(), found)


def test_sizes_of_replaced_pools():
    """`auto` keeps the size that torch's pool gives, whatever its kernel, stride, padding, dilation and ceil mode."""
    seen = 0
    keys = itertools.product((2, 3, (2, 3)), (2, 3, (3, 2)), (0, 1, (1, 0)), (1, 2), (False, True))
    for kernel, stride, padding, dilation, ceil in keys:
        replaced = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
        for size in [(7, 8), (9, 14), (12, 5)]:
            x = torch.empty(1, 1, *size, device="meta")
            assert pool(replaced=replaced).output_size(x) == list(replaced(x).shape[2:])
            seen += 1
    assert seen == 324


def test_every_image_draws():
    """In a training batch images have regions of their own, which their channels share. Of the 13 steps from 28 rows to
    14 (a = 25 / 13) one is 1 and the others are 2: by the formula the last with probability 1/25, each other one with
    2/25; frequencies are within binomial bounds."""
    ramp = torch.arange(28.0)[:, None].expand(PASSES, 1, 28, 2)
    found = pool(noise=seeded(1), replaced=nn.MaxPool2d((2, 1))).train()(torch.cat((ramp, ramp + 5), 1))
    assert torch.equal(found[:, 0] + 5, found[:, 1])
    last = found[:, 0, :, 0]  # row of each window
    steps = last.diff(dim=1)
    assert (last[:, 0] == 2).all() and (last[:, -1] == 27).all()
    assert ((steps == 1).sum(1) == 1).all() and ((steps == 2).sum(1) == 12).all()
    shares = torch.bincount((steps == 1).int().argmax(1), minlength=13) / PASSES
    wanted = torch.tensor([2.0] * 12 + [1.0]) / 25
    assert ((shares - wanted).abs() < bound(13) * (wanted * (1 - wanted) / PASSES).sqrt()).all()


# -- fractional pools: testing --------------------------------------------------------------------------------------


def test_frozen_regions():
    """A test pass has regions that were drawn once, from the run's noise, are the same for all images, and are in
    the state; they are not the replaced pool's."""
    x = torch.randn(6, 2, 28, 28, generator=seeded())
    layer, twin, other = pool(noise=seeded(1)), pool(noise=seeded(1)), pool(noise=seeded(2))
    found = layer.eval()(x)
    assert torch.equal(found, layer(x)) and torch.equal(found, twin.eval()(x))
    assert torch.equal(found[3:], layer(x[3:]))
    u = layer.regions.flip(1).expand(6, 2, 2)
    assert torch.equal(found, fractional_max_pool2d(x, 3, 14, _random_samples=u))
    assert not torch.equal(found, nn.MaxPool2d(2)(x)) and not torch.equal(found, other.eval()(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(found, other(x))


@pytest.mark.parametrize("samples", [2, 5])
def test_averaged_regions(samples):
    """With `samples` a test pass is the mean of torch's pools with each of the regions in the state."""
    x = torch.randn(6, 2, 14, 9, generator=seeded(), dtype=torch.float64)
    layer = pool(samples=samples, noise=seeded(1)).eval()
    assert layer.regions.shape == (samples, 2)
    size = layer.output_size(x)
    kernel = [fmp.window(rows, out) for rows, out in zip((14, 9), size)]
    each = [
        fractional_max_pool2d(x, kernel, size, _random_samples=u.flip(0).expand(6, 2, 2).double())
        for u in layer.regions
    ]
    torch.testing.assert_close(layer(x), torch.stack(each).mean(0))
    assert not torch.allclose(layer(x), each[0])


def test_averages_converge():
    """The average over k regions nears the mean of 20,000 random passes as 1 / sqrt k, in float64: the mean square
    distance of 60 layers, all outputs together, is the draws' variance over k."""
    x = torch.randn(1, 2, 8, 8, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        passes = pool(noise=seeded(1)).train()(x.expand(PASSES, -1, -1, -1))
        mean, variance = passes.mean(0), passes.var(0)
        errors = {}
        for k in (1, 4, 16, 64):
            tried = [pool(samples=k, noise=seeded(100 + i)).eval()(x)[0] for i in range(60)]
            errors[k] = (torch.stack(tried) - mean).square().mean(0).sum().item()
            expected = (variance.sum() * (1 / k + 1 / PASSES)).item()
            assert 0.7 < errors[k] / expected < 1.4
        many = pool(samples=2000, noise=seeded(2)).eval()(x)[0]
    moved = variance > 0
    assert moved.sum() > 10  # corner windows never move
    limit = bound(int(moved.sum())) * (variance * (1 / PASSES + 1 / 2000)).sqrt()
    assert ((many - mean).abs() <= limit + 1e-12).all()
    assert errors[1] > 30 * errors[64]


def test_monte_carlo_draws_regions():
    """Where a test pass is sampled it draws anew, an image at a time, and afterwards its regions are the old ones."""
    layer = pool(noise=seeded(1)).eval()
    x = torch.randn(1, 2, 28, 28, generator=seeded()).expand(8, -1, -1, -1)
    before = layer(x)
    with sampled(layer, seeded(3)):
        first, second = layer(x), layer(x)
    assert not torch.equal(first, second) and len(first.unique(dim=0)) > 4
    assert torch.equal(layer(x), before)


# -- fractional pools: where ----------------------------------------------------------------------------------------


def test_places():
    """Every max pool that makes images smaller is replaced; those of stride 1 in GoogLeNet stay."""
    assert fmp.places(ConvNet([4, 4], 8, **SHAPE)) == ["pool1", "pool2"]
    assert fmp.places(meta("googlenet", 96)) == ["maxpool1", "maxpool2", "maxpool3", "maxpool4"]
    model = meta("vgg11")
    FractionalMaxPool().modify(model, None)
    assert len(layers(model, FractionalPooling)) == 5 and fmp.places(model) == [
        f"{name}.pool" for name, layer in model.named_modules() if isinstance(layer, FractionalPooling)
    ]


def test_the_models_with_pools(option_models):
    """Exactly the models that the refusal names have max pools."""
    large = {name for name, model in option_models.items() if fmp.places(model)}
    assert large == {"airbench", "convnet", "squeezenet1_1", "resnet18", "resnet50"}
    assert {name for name in large if fmp.places(built(NODES[name], 32))} == {"airbench", "convnet", "squeezenet1_1"}


@pytest.mark.parametrize("ratio", ["auto", 0.71])
@pytest.mark.parametrize(("name", "size"), [("squeezenet1_1", 32), ("vgg11", 32), ("resnet18", 96), ("googlenet", 64)])
def test_networks_with_pools(name, size, ratio):
    """Networks that take any size give logits with each ratio, and the pools inside have the sizes it says."""
    model, seen = meta(name, size), []
    with torch.device("meta"):
        FractionalMaxPool(ratio).modify(model, None)
    for layer in layers(model, FractionalPooling):
        layer.register_forward_hook(lambda layer, inputs, y: seen.append((inputs[0], layer.pool(inputs[0]), y)))
    assert model.eval()(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 3)
    assert seen
    for x, replaced, y in seen:
        assert y.shape[2] == (replaced.shape[2] if ratio == "auto" else math.floor(ratio * x.shape[2]))


# -- both, in runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [StochasticDepth(), FractionalMaxPool()])
def test_stages_and_names_stay(item, option_models):
    """Surgery hides and adds no parameter and moves no stage, in every model of conf/model and two more; the state
    gets nothing but the regions."""
    tried = [option_models, {"vgg11": meta("vgg11"), "swin_t": meta("swin_t")}]
    for name, model in (pair for of in tried for pair in of.items()):
        model = copy.deepcopy(model)
        before = [(stage, [key for key, _ in some]) for stage, some in stage_parameters(model)]
        state, cut = list(model.state_dict()), [stage for stage, _ in stages(model)]
        item.modify(model, None)
        assert [(stage, [key for key, _ in some]) for stage, some in stage_parameters(model)] == before, name
        assert [stage for stage, _ in stages(model)] == cut
        assert [key for key in model.state_dict() if not key.endswith(".regions")] == state


STACKS = {
    "stochastic_depth": ("regularization=[stochastic_depth]",),
    "stochastic_depth per batch": ("regularization=[stochastic_depth]", "regularization.stochastic_depth.per=batch"),
    "fractional_max_pool": ("regularization=[fractional_max_pool]",),
    "averaged": ("regularization=[fractional_max_pool]", "regularization.fractional_max_pool.samples=3"),
}
MODEL_OF = {
    "stochastic_depth": ("model=resnet20",),
    "stochastic_depth per batch": ("model=wide_resnet", "model.depth=10", "model.width=1"),
    "fractional_max_pool": ("model=convnet", "model.channels=[4,4]", "model.hidden=8"),
    "averaged": ("model=convnet", "model.channels=[4,4]", "model.hidden=8"),
}


def made(stack, *more, without=False):
    """A run of four steps in two epochs on images of noise."""
    item = () if without else STACKS[stack]
    words = (*MODEL_OF[stack], *item, "batch_size=16", "epochs=2", "optimizer=momentum", *more)
    config, noise = check(composed(*words)), generator(0, "noise")
    return TrainState(config, Resources().parts(config, splits(train=40), CPU, noise), CPU, noise)


@pytest.mark.parametrize("stack", list(STACKS))
def test_goes_on_bit_for_bit(tmp_path, stack):
    """Saved after a step and loaded by a new run, the rest is the same to the last bit; another seed of the noise
    gives other weights."""
    path, whole = tmp_path / checkpoint.FILE, made(stack, "log.every=1")
    whole.on_pause = lambda run: checkpoint.save(path, run.state_dict()) if run.progress.step == 1 else None
    train([whole], EagerProgram())
    assert all(math.isfinite(row["train_loss"] + row["val_loss"]) for row in whole.progress.history)
    resumed = made(stack, "log.every=1")
    resumed.noise.manual_seed(99)  # whatever it drew before, the checkpoint knows where it stood
    for layer in layers(resumed.model, FractionalPooling):
        layer.regions.uniform_()
    resumed.load_state_dict(checkpoint.load(path))
    train([resumed], EagerProgram())
    assert torch.equal(values(resumed), values(whole))
    assert numbers(resumed.progress.history) == numbers(whole.progress.history)
    assert torch.equal(resumed.noise.get_state(), whole.noise.get_state())
    other = made(stack, "log.every=1")
    other.noise.manual_seed(99)
    train([other], EagerProgram())
    assert not torch.allclose(values(other), values(whole), rtol=1e-4)


def test_samples_are_for_testing_alone():
    """How many regions are averaged at test time changes nothing in training."""
    frozen, averaged = made("fractional_max_pool"), made("averaged")
    train([frozen], EagerProgram())
    train([averaged], EagerProgram())
    assert torch.equal(values(frozen), values(averaged))
    assert frozen.progress.history[0]["val_loss"] != averaged.progress.history[0]["val_loss"]


@pytest.mark.parametrize("stack", list(STACKS))
def test_micro_batches_half_precision_and_layout(stack):
    """Accumulated gradients, bfloat16 and channels-last images train to finite weights, other than without the item,
    and torch's own stream of random numbers is left alone."""
    words = ("accumulate=3", "precision=bf16", "channels_last=true")
    state = torch.get_rng_state()
    run = made(stack, *words)
    train([run], EagerProgram())
    assert torch.equal(torch.get_rng_state(), state)
    plain = made(stack, *words, without=True)
    train([plain], EagerProgram())
    assert values(run).isfinite().all() and not torch.allclose(values(run), values(plain), rtol=1e-3)


@pytest.mark.parametrize("stack", list(STACKS))
def test_a_copy_stands_alone(stack):
    """A deep copy answers alike and draws alike, from a generator of its own, with hooks that are its own."""
    run, images = made(stack), torch.rand(4, 1, 8, 8, generator=seeded())
    twin = copy.deepcopy(run.model)
    assert torch.equal(run.model.eval()(images), twin.eval()(images))
    assert torch.equal(run.model.train()(images), twin.train()(images))
    for drop in layers(twin, DropPath):
        drop.p = 0.0
    for layer in layers(twin, FractionalPooling):
        layer.regions.zero_()
    before = run.noise.get_state()
    assert torch.equal(twin.train()(images), twin(images)) == ("depth" in stack)
    assert torch.equal(run.noise.get_state(), before)
    assert not torch.equal(run.model.train()(images), run.model(images))


@pytest.mark.parametrize(
    ("model", "item"),
    [
        ("wide_resnet", "stochastic_depth"),
        ("resnet18", "stochastic_depth"),
        ("mobilenet_v2", "stochastic_depth"),
        ("efficientnet_b0", "stochastic_depth"),
        ("convnext_tiny", "stochastic_depth"),
        ("squeezenet1_1", "fractional_max_pool"),
    ],
)
def test_trains_two_steps(model, item):
    """Larger networks train two steps with the item and evaluate."""
    words = (f"model={model}", f"regularization=[{item}]", "batch_size=4", "epochs=1", "optimizer=sgd")
    config, noise = check(composed(*words)), generator(0, "noise")
    run = TrainState(config, Resources().parts(config, splits(8, 4, 3, side=32), CPU, noise), CPU, noise)
    train([run], EagerProgram())
    (row,) = run.progress.history
    assert row["step"] == 2 and math.isfinite(row["train_loss"] + row["val_loss"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("model=mlp", "regularization=[stochastic_depth]"),
            f"regularization=[stochastic_depth]: MLP has no residual branches to drop; models that have them: {MODELS}",
        ),
        (
            ("model=resnet20", "regularization=[stochastic_depth]", "regularization.stochastic_depth.p=1"),
            "regularization.stochastic_depth.p=1: must be below 1",
        ),
        (
            ("model=resnet20", "regularization=[fractional_max_pool]"),
            "regularization=[fractional_max_pool]: ResNet has no max pool to replace; models that have: airbench, "
            "convnet, squeezenet1_1 and, for images above 64 pixels, resnet18 and resnet50",
        ),
        (
            ("model=convnet", "regularization=[fractional_max_pool]", "regularization.fractional_max_pool.ratio=0.7"),
            "regularization.fractional_max_pool.ratio=0.7: the layers of ConvNet do not fit the sizes that its pools "
            "would give for images of 8 pixels; use ratio=auto, or a model that takes any size, e.g. "
            "model=squeezenet1_1",
        ),
        (
            ("model=convnet", "regularization=[fractional_max_pool]", "regularization.fractional_max_pool.ratio=0.4"),
            "regularization.fractional_max_pool.ratio=0.4: must be 'auto' or must be at least 0.5",
        ),
        (
            ("model=convnet", "regularization=[fractional_max_pool]", "regularization.fractional_max_pool.samples=0"),
            "regularization.fractional_max_pool.samples=0: must be at least 1",
        ),
    ],
)
def test_refusals(cli, words, line):
    """What cannot work is refused in one line before training, with the way out."""
    code, _, err = cli("threads=1", "epochs=1", *words)
    assert code == 2 and line in " ".join(err.split())
    assert len([part for part in err.splitlines() if "regularization" in part]) == 1


def test_images_too_small_for_regions():
    """Where no region of any pool can move the item is refused."""
    words = ("model=convnet", "model.channels=[4]", "batch_size=10", "regularization=[fractional_max_pool]")
    with torch.device("meta"), pytest.raises(Refused) as refused:
        Resources().parts(check(composed(*words)), splits(side=4), torch.device("meta"), None, rules=())
    assert refused.value.lines == [
        "regularization=[fractional_max_pool]: images of 4 pixels leave the pools of ConvNet no choice of regions; use "
        "larger images or leave it out"
    ]
