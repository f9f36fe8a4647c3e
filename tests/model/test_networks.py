"""Models: shapes, published sizes, layers and initial weights."""

import pkgutil

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torchvision import models

from runner.core.errors import ConfigError
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.resnet import BasicBlock, PadShortcut, ResNet
from runner.model.stages import stages
from runner.model.wide_resnet import WideResNet
from tests.shared.networks import COLOUR, assert_covers, build_meta
from tests.shared.paths import ROOT

CONF = ROOT / "conf" / "model"
TOO_SMALL = {("convnext_tiny", 8): "at least 16 pixels a side, not 8"}


def options() -> list[str]:
    return sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("torchvision", "custom"))


def from_yaml(option: str, **shape: int) -> nn.Module:
    keys = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))
    return pkgutil.resolve_name(keys.pop("_target_"))(**keys, **shape)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------- every option of conf/model


@pytest.mark.parametrize("option", options())
@pytest.mark.parametrize(("channels", "pixels"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_each_option_gives_logits_for_each_shape_of_image(option: str, channels: int, pixels: int) -> None:
    """Every YAML builds for digits, Fashion-MNIST, CIFAR and small photos, and its stages cover it."""
    shape = {"in_channels": channels, "num_classes": 7, "image_size": pixels}
    with torch.device("meta"):
        if (option, pixels) in TOO_SMALL:
            with pytest.raises(ConfigError, match=TOO_SMALL[option, pixels]):
                from_yaml(option, **shape)
            return
        model = from_yaml(option, **shape).eval()
        assert model(torch.empty(2, channels, pixels, pixels)).shape == (2, 7)
    assert_covers(model)


@pytest.mark.parametrize(
    "option", ["mlp", "convnet", "resnet20", "wide_resnet", "resnet18", "squeezenet1_1", "mobilenet_v3_small"]
)
def test_every_weight_learns(option: str) -> None:
    """One backward pass on real weights gives finite logits and a gradient for each parameter."""
    torch.manual_seed(0)
    model = from_yaml(option, in_channels=1, num_classes=3, image_size=16)
    logits = model(torch.randn(4, 1, 16, 16))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert torch.isfinite(logits).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_seed_decides_the_weights() -> None:
    """Initialization draws from torch's global generator and from nothing else."""
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = from_yaml("resnet18", **COLOUR)
        drawn.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# ---------------------------------------------------------------- our own networks


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (lambda: ResNet(20, **COLOUR), 0.27e6),  # He et al. 2015, table 6
        (lambda: ResNet(32, **COLOUR), 0.46e6),
        (lambda: ResNet(56, **COLOUR), 0.85e6),
        (lambda: ResNet(110, **COLOUR), 1.7e6),
        (lambda: WideResNet(16, 4, **COLOUR), 2.7e6),
        (lambda: WideResNet(40, 4, **COLOUR), 8.9e6),  # Zagoruyko & Komodakis 2016, tables 3 and 4
        (lambda: WideResNet(16, 8, **COLOUR), 11.0e6),
        (lambda: WideResNet(28, 10, **COLOUR), 36.5e6),
        (lambda: models.resnet18(num_classes=1000), 11.69e6),
    ],
)
def test_sizes_are_the_published_ones(make, published: float) -> None:
    """Parameters for 3x32x32 and ten classes, to the digits that the papers print."""
    with torch.device("meta"):
        assert size(make()) == pytest.approx(published, rel=0.02)


def test_sizes_are_those_of_the_docstrings() -> None:
    """The exact counts that docstrings and docs/models.md state."""
    with torch.device("meta"):
        assert size(ResNet(20, **COLOUR)) == 269_722
        assert size(ResNet(20, "B", **COLOUR)) == 272_474
        assert size(ResNet(56, **COLOUR)) == 853_018
        assert size(ResNet(56, "B", **COLOUR)) == 855_770
        assert size(WideResNet(16, 4, **COLOUR)) == 2_748_890
        assert size(WideResNet(28, 10, **COLOUR)) == 36_479_194
        assert size(ConvNet([32, 64], 128, in_channels=1, num_classes=10, image_size=28)) == 421_642
        assert size(MLP([128], in_channels=1, num_classes=10, image_size=8)) == 9_610


def test_convnet_is_laid_out_as_promised() -> None:
    """conv3x3-32, ReLU, pool, conv3x3-64, ReLU, pool, flatten, linear 128, ReLU, linear."""
    model = ConvNet([32, 64], 128, in_channels=1, num_classes=10, image_size=28)
    assert [type(layer) for layer in model] == [
        *[nn.Conv2d, nn.ReLU, nn.MaxPool2d] * 2,
        *[nn.Flatten, nn.Linear, nn.ReLU, nn.Linear],
    ]
    assert model.conv1.padding == (1, 1)
    assert (model.conv2.out_channels, model.hidden.in_features, model.hidden.out_features) == (
        64,
        64 * 49,
        128,
    )


def test_mlp_without_hidden_layers_is_linear() -> None:
    """`hidden=[]` is softmax regression: one matrix product."""
    model = MLP([], in_channels=1, num_classes=3, image_size=4)
    x = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(model(x), x.flatten(1) @ model.head.weight.T + model.head.bias)
    assert [name for name, _ in stages(model)] == ["head"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_basic_block_adds_branch_and_shortcut(shortcut) -> None:
    """`relu(shortcut(x) + branch(x))`: with a silent branch the shortcut alone is left."""
    block = BasicBlock(4, 8, 2, shortcut).eval()
    x = torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.branch.norm2.weight)
    torch.testing.assert_close(block(x), block.shortcut(x).relu())
    assert block(x).shape == (2, 8, 3, 3)


def test_shortcut_a_drops_pixels_and_pads_channels() -> None:
    """Option A equals a loop over channels and pixels."""
    x = torch.randn(2, 3, 5, 5)
    expected = torch.zeros(2, 5, 3, 3)
    for channel in range(3):
        for row in range(3):
            for column in range(3):
                expected[:, channel, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(PadShortcut(stride=2, extra=2)(x), expected)


def test_wide_resnet_is_pre_activated() -> None:
    """A block of equal shape passes its input on; one that changes it projects norm and ReLU of it."""
    model = WideResNet(16, 1, **COLOUR).eval()
    same, changing = model.stage1[1], model.stage2[0]
    x = torch.randn(2, 16, 8, 8)
    for block in (same, changing):
        nn.init.zeros_(block.branch.conv2.weight)
    torch.testing.assert_close(same(x), x)
    torch.testing.assert_close(changing(x), changing.shortcut(changing.before(x)))
    assert (changing.before(x) >= 0).all()


def test_no_bias_stands_before_a_norm() -> None:
    """Convolutions of the residual networks have no bias: a norm would take it away again."""
    for model in (ResNet(20, "B", **COLOUR), WideResNet(16, 1, **COLOUR)):
        assert all(part.bias is None for part in model.modules() if isinstance(part, nn.Conv2d))


def test_convolutions_start_from_hes_distribution() -> None:
    """Standard deviation sqrt(2 / (9 * filters)), mean zero, with fewer inputs than filters."""
    torch.manual_seed(0)
    weight = WideResNet(16, 4, **COLOUR).stage3[0].branch.conv1.weight
    assert weight.shape[:2] == (256, 128)
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP([16], **COLOUR | {"image_size": 8}),
        lambda: ConvNet([4, 8], 16, **COLOUR | {"image_size": 8}),
        lambda: ResNet(8, "A", **COLOUR | {"image_size": 8}),
        lambda: ResNet(8, "B", **COLOUR | {"image_size": 8}),
        lambda: WideResNet(10, 1, **COLOUR | {"image_size": 8}),
    ],
)
def test_our_networks_run_under_vmap(make) -> None:
    """Three networks in one vmapped program, in training mode, equal the three alone, statistics too."""
    torch.manual_seed(0)
    members = [make().double() for _ in range(3)]
    x = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64)
    parameters, buffers = stack_module_state(members)
    together = vmap(lambda p, b, images: functional_call(members[0], (p, b), images))(parameters, buffers, x)
    for index, member in enumerate(members):
        torch.testing.assert_close(together[index], member(x[index]), rtol=1e-10, atol=1e-12)
        for name, buffer in member.named_buffers():
            torch.testing.assert_close(buffers[name][index], buffer, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ResNet(21, **COLOUR), "model.depth=21 is not 6n [+] 2.* 20"),
        (lambda: ResNet(2, **COLOUR), "model.depth=2 .* 8"),
        (lambda: WideResNet(18, **COLOUR), "model.depth=18 is not 6n [+] 4.* 16"),
        (lambda: ResNet(20, **COLOUR | {"image_size": 3}), "at least 4 pixels.* 3"),
        (lambda: WideResNet(**COLOUR | {"image_size": 2}), "at least 4 pixels.* 2"),
        (lambda: ConvNet([8, 8, 8, 8], 8, **COLOUR | {"image_size": 8}), r"\[8, 8, 8, 8\].* 16 pixels.* 8"),
        (lambda: build_meta("resnet81"), "resnet81.*did you mean 'resnet"),
        (lambda: build_meta("qqqq"), "qqqq.*list_models"),
        (lambda: build_meta("vgg11", small_images=True), "vgg11 has no stem for small images"),
        (lambda: build_meta("inception_v3", image_size=64), "inception_v3.*at least 75.* 64"),
        (lambda: build_meta("alexnet", image_size=32), "alexnet.*at least 63.* 32"),
        (lambda: build_meta("squeezenet1_1", image_size=8, small_images=False), "at least 17 pixels.* 8"),
        (lambda: build_meta("maxvit_t", image_size=64), "224 pixels.* 64"),
        (lambda: build_meta("vit_b_16", image_size=100), "patches of 16.* 96 or 112"),
        (lambda: build_meta("vit_b_16", image_size=8, small_images=False), "patches of 16.* 16 pixels"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(make, said: str) -> None:
    """Depths, names and sizes that do not fit raise a ConfigError with the value and the way out."""
    with pytest.raises(ConfigError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
