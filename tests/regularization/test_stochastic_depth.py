"""Stochastic depth: draws against torchvision, survival by its rule, branches of every family."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models, ops
from torchvision.models import convnext, efficientnet, mobilenetv2, resnet, swin_transformer

from runner.model.noise import sampled
from runner.model.resnet import BasicBlock, ResNet
from runner.model.wide_resnet import PreActivationBlock, WideResNet
from runner.regularization.stochastic_depth import MODELS, DropPath, StochasticDepth, blocks
from tests.shared.draws import seeded
from tests.shared.noise_structure import PASSES, SHAPE, bound, layers, meta


def shifted(model):
    """The model with norms whose biases are not zero, so that a branch that is zero midway is not zero at its end."""
    for norm in layers(model, nn.BatchNorm2d):
        nn.init.uniform_(norm.bias, 0.5, 1)
    return model


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
