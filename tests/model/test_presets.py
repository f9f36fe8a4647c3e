"""Presets of pretrained weights and modes of networks, against torchvision and torch."""

import pytest
import torchvision
from torch import nn

from runner.core.errors import ConfigError
from runner.model.presets import Preset, preset
from runner.model.train_mode import set_mode
from tests.shared.networks import TORCHVISION

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            {"_target_": "runner.model.torchvision_model.build", "name": "resnet18"},
            Preset(256, 224, **IMAGENET),
        ),
        (
            {"_target_": "runner.model.torchvision_model.build", "name": "inception_v3"},
            Preset(342, 299, **IMAGENET),
        ),
        (
            {"_target_": "runner.model.torchvision_model.build", "name": "efficientnet_v2_l"},
            Preset(480, 480, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        ),
        ({"_target_": "runner.model.resnet.ResNet", "depth": 20}, None),
        ({"_target_": "mypackage.MyNet", "name": "resnet18"}, None),
        ({"_target_": "runner.model.torchvision_model.build"}, None),
    ],
)
def test_presets_are_those_of_the_default_weights(node: dict, expected: Preset | None) -> None:
    """Size, crop and normalisation as torchvision documents them; None for networks without weights."""
    assert preset(node) == expected


def test_an_unknown_architecture_has_no_preset() -> None:
    """The same line as at building."""
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        preset({"_target_": "runner.model.torchvision_model.build", "name": "resnet_18"})


def test_every_torchvision_classifier_has_a_preset() -> None:
    """No architecture of torchvision lacks default weights."""
    target = "runner.model.torchvision_model.build"
    found = [preset({"_target_": target, "name": name}) for name in TORCHVISION]
    assert all(one is not None and one.size <= one.resize for one in found), torchvision.__version__


class Stubborn(nn.Linear):
    """A layer that has a say in its own mode."""

    def train(self, mode=True):
        return super().train(False)


def test_modes_are_those_that_torch_sets():
    """Of every part; a part with a `train` of its own is asked."""
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3)), nn.Linear(2, 2))
    for training in (False, True, False):
        set_mode(model, training)
        assert {module.training for module in model.modules()} == {training}
    model.append(Stubborn(2, 2))
    set_mode(model, True)
    assert [module.training for module in model] == [True, True, False] and model[0][0].training
