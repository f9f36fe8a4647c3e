"""Stages of networks: names, order, and the parameters in each."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision import models

from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.resnet import ResNet
from runner.model.stages import Stage, stage_parameters, stages
from runner.model.wide_resnet import WideResNet
from tests.shared.networks import COLOUR, assert_covers, build_meta
from tests.shared.paths import ROOT


def test_stages_of_known_networks() -> None:
    """The names that a user meets in freezing, rates and TensorBoard."""

    def names(model: nn.Module) -> list[str]:
        return [name for name, _ in stages(model)]

    with torch.device("meta"):
        assert names(ResNet(20, **COLOUR)) == ["stem", "stage1", "stage2", "stage3", "head"]
        assert names(WideResNet(**COLOUR)) == ["stem", "stage1", "stage2", "stage3", "head"]
        assert names(ConvNet([32, 64], 128, **COLOUR)) == ["conv1", "conv2", "hidden", "head"]
        assert names(MLP([9, 8], **COLOUR)) == ["linear1", "linear2", "head"]
    assert names(build_meta("resnet18")) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert names(build_meta("vit_b_16")) == ["stem", *(f"layer{i}" for i in range(1, 13)), "head"]
    assert names(build_meta("vgg16_bn")) == ["stage1", "stage2", "stage3", "stage4", "stage5", "head"]
    assert names(build_meta("mobilenet_v2")) == ["stem", *(f"stage{i}" for i in range(1, 6)), "head"]


def test_parameters_outside_of_all_stages_belong_to_the_first() -> None:
    """ViT's class token and positions are in no module of their own and go with the stem."""
    found = {name: [key for key, _ in some] for name, some in stage_parameters(build_meta("vit_b_16"))}
    assert set(found["stem"]) == {
        *("class_token", "encoder.pos_embedding", "conv_proj.weight", "conv_proj.bias"),
    }
    assert set(found["head"]) == {
        *("encoder.ln.weight", "encoder.ln.bias", "heads.head.weight", "heads.head.bias"),
    }


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "mnasnet0_5", "vgg11_bn", "densenet121"])
def test_a_small_stem_does_not_move_the_stages(name: str) -> None:
    """The same parameters lie in the same stages at 32 and at 224 pixels."""

    def cut(pixels: int) -> list[tuple[str, list[str]]]:
        return [
            (stage, [key for key, _ in some]) for stage, some in stage_parameters(build_meta(name, image_size=pixels))
        ]

    assert cut(32) == cut(224)


class Wrapped(nn.Module):
    """A user's network: a lone child, a norm without weights, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 36, 5),
            nn.Linear(5, 5),
        )
        self.scale = nn.Parameter(torch.ones(1))


def test_stages_of_an_unknown_module_are_its_children() -> None:
    """A lone child is looked into, statistics go with the layer before, direct parameters with the first."""
    model = Wrapped()
    assert [(name, [type(m) for m in modules]) for name, modules in stages(model)] == [
        ("0", [nn.Conv2d, nn.BatchNorm2d]),
        ("4", [nn.Linear]),
        ("5", [nn.Linear]),
    ]
    assert [[key for key, _ in some] for _, some in stage_parameters(model)] == [
        ["scale", "net.0.weight", "net.0.bias"],
        ["net.4.weight", "net.4.bias"],
        ["net.5.weight", "net.5.bias"],
    ]


def test_a_shared_parameter_belongs_to_the_first_of_its_stages() -> None:
    """Tied weights are listed once."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert [[key for key, _ in some] for _, some in stage_parameters(model)] == [
        ["0.weight", "0.bias"],
        ["2.bias"],
    ]


def test_a_single_layer_is_its_own_head() -> None:
    """A module without children, alone or wrapped, is one stage."""
    layer = nn.Linear(2, 2)
    assert stages(layer) == [("head", [layer])]
    assert stages(nn.Sequential(nn.Flatten(), layer)) == [("1", [layer])]


def test_a_subclass_of_torchvisions_is_cut_by_its_children() -> None:
    """A user's subclass may have layers that the table does not know: none of them is lost."""

    class Deeper(models.ResNet):
        def __init__(self) -> None:
            super().__init__(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
            self.last = nn.Linear(4, 3)

    with torch.device("meta"):
        model = Deeper()
    assert_covers(model)
    assert stages(model)[-1][0] == "last"


def test_a_user_may_register_stages() -> None:
    """`stages.register` takes a cut for a class of the user's."""

    class Mine(nn.Sequential):
        pass

    @stages.register
    def _(model: Mine) -> list[Stage]:
        return [("body", list(model[:2])), ("head", [model[2]])]

    assert [name for name, _ in stages(Mine(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)))] == [
        "body",
        "head",
    ]


def test_stages_and_presets_import_no_torchvision() -> None:
    """torchvision takes seconds to import: own networks do not pay for it."""
    code = (
        "import sys, runner.model.stages as s, runner.model.presets as p, runner.model.convnet as c\n"
        "assert p.preset({'_target_': 'runner.model.mlp.MLP', 'hidden': [1]}) is None\n"
        "s.stages(c.ConvNet([4], 4, in_channels=1, num_classes=2, image_size=8))\n"
        "sys.exit('torchvision' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
