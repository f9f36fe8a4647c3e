"""Models of torchvision: every family, stages, and stems for small images."""

import pytest
import torch
from torch import nn
from torchvision import models

from runner.core.errors import ConfigError
from runner.model import torchvision_model
from runner.model.stages import stages
from tests.shared.networks import TORCHVISION, assert_covers, build_meta


@pytest.mark.parametrize("name", TORCHVISION)
def test_stages_cover_each_classifier_of_torchvision(name: str) -> None:
    """Each parameter in one stage, the stem first, the classifier last, by the table, not the fallback."""
    model = build_meta(name, in_channels=1, num_classes=5, image_size=224)
    assert_covers(model)
    assert stages(model)[-1][0] == "head"
    assert 4 <= len(stages(model)) <= 40


FAMILIES = {  # one of each, and the fewest pixels it takes with small_images=auto
    "alexnet": 63,
    "convnext_tiny": 16,
    "densenet121": 1,
    "efficientnet_b0": 1,
    "efficientnet_v2_s": 1,
    "googlenet": 1,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 1,
    "mobilenet_v2": 1,
    "mobilenet_v3_small": 1,
    "regnet_y_400mf": 1,
    "resnet18": 1,
    "shufflenet_v2_x0_5": 1,
    "squeezenet1_0": 1,
    "swin_t": 1,
    "swin_v2_t": 1,
    "vgg11_bn": 32,
    "vit_b_32": 1,
}


def test_the_families_are_all_of_torchvisions() -> None:
    """The table above has a model of every class that torchvision builds."""
    modules = {models.get_model_builder(name).__module__ for name in TORCHVISION}
    assert {models.get_model_builder(name).__module__ for name in FAMILIES} == modules


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("channels", "pixels"), [(1, 8), (3, 32), (4, 224)])
def test_each_family_works_or_says_why_not(name: str, channels: int, pixels: int) -> None:
    """With small_images=auto any family gives logits, or a ConfigError names the size it needs."""
    if pixels < FAMILIES[name]:
        with pytest.raises(ConfigError, match=f"{FAMILIES[name]} pixels.*not {pixels}"):
            build_meta(name, in_channels=channels, image_size=pixels)
        return
    model = build_meta(name, in_channels=channels, num_classes=5, image_size=pixels).eval()
    with torch.device("meta"):
        assert model(torch.empty(2, channels, pixels, pixels)).shape == (2, 5)
    assert torchvision_model.first_conv(model)[1].in_channels == channels


@pytest.mark.parametrize("name", ["googlenet", "regnet_x_400mf", "shufflenet_v2_x0_5", "squeezenet1_0"])
def test_real_weights_are_finite(name: str) -> None:
    """Built on the CPU, no tensor stays on the meta device and the logits are numbers."""
    torch.manual_seed(0)
    model = torchvision_model.build(name, in_channels=1, num_classes=3, image_size=28).eval()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert torch.isfinite(model(torch.randn(2, 1, 28, 28))).all()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "regnet_x_400mf"])
def test_large_colour_images_get_torchvisions_own_network(name: str) -> None:
    """With three channels and no small stem nothing is made anew: one seed gives torchvision's weights."""
    torch.manual_seed(3)
    ours = torchvision_model.build(name, in_channels=3, num_classes=5, image_size=224).state_dict()
    torch.manual_seed(3)
    theirs = models.get_model(name, num_classes=5).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_small_images_keep_their_resolution() -> None:
    """Up to 64 pixels, or when asked, ResNet-18 has a 3x3 stem of stride 1 and no first pool."""
    small, large = build_meta("resnet18", image_size=64), build_meta("resnet18", image_size=65)
    assert (small.conv1.kernel_size, small.conv1.stride, small.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(large.maxpool, nn.MaxPool2d)
    assert build_meta("resnet18", image_size=32, small_images=False).conv1.stride == (2, 2)
    assert build_meta("resnet18", image_size=128, small_images=True).conv1.stride == (1, 1)


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "pools"),
    [
        ("squeezenet1_0", 3, 1, 3),
        ("googlenet", 3, 1, 2),
        ("shufflenet_v2_x0_5", 3, 1, 0),
        ("mobilenet_v2", 3, 1, 0),
        ("mobilenet_v3_small", 3, 1, 0),
        ("mnasnet0_5", 3, 1, 0),
        ("regnet_x_400mf", 3, 1, 0),
        ("efficientnet_b0", 3, 1, 0),
        ("densenet121", 3, 1, 0),
        ("convnext_tiny", 2, 2, 0),
        ("swin_t", 2, 2, 0),
        ("vgg11", 3, 1, 5),
    ],
)
def test_stems_for_small_images(name: str, kernel: int, stride: int, pools: int) -> None:
    """The first convolution at 32 pixels and the pools that are left, as docs/models.md states it."""
    model = build_meta(name, image_size=32)
    conv = torchvision_model.first_conv(model)[1]
    assert (conv.kernel_size, conv.stride) == ((kernel, kernel), (stride, stride))
    assert sum(isinstance(part, nn.MaxPool2d) and part.stride == 2 for part in model.modules()) == pools


@pytest.mark.parametrize(("pixels", "patch"), [(8, 1), (28, 4), (32, 4), (48, 6), (64, 8), (224, 16), (384, 16)])
def test_vit_cuts_patches_that_divide(pixels: int, patch: int) -> None:
    """The patch divides the image, and the positions are as many as the patches and the class token."""
    model = build_meta("vit_b_16", image_size=pixels)
    assert (model.patch_size, model.conv_proj.kernel_size) == (patch, (patch, patch))
    assert model.encoder.pos_embedding.shape[1] == (pixels // patch) ** 2 + 1 == model.seq_length
