"""Models: shapes, published sizes, stages, stems for small images, presets."""

import pkgutil
import subprocess
import sys

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torchvision import models

from runner.core.errors import ConfigError
from runner.model import torchvision_model
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.model.presets import Preset, preset
from runner.model.resnet import BasicBlock, PadShortcut, ResNet
from runner.model.stages import Stage, stage_parameters, stages
from runner.model.train_mode import set_mode
from runner.model.wide_resnet import WideResNet
from tests.shared.paths import ROOT

CONF = ROOT / "conf" / "model"
TORCHVISION = models.list_models(module=models)
TOO_SMALL = {("convnext_tiny", 8): "at least 16 pixels a side, not 8"}
COLOUR = {"in_channels": 3, "num_classes": 10, "image_size": 32}


def options() -> list[str]:
    return sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in ("torchvision", "custom"))


def from_yaml(option: str, **shape: int) -> nn.Module:
    keys = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))
    return pkgutil.resolve_name(keys.pop("_target_"))(**keys, **shape)


def build_meta(name: str, **changed) -> nn.Module:
    with torch.device("meta"):
        return torchvision_model.build(name, **{**COLOUR, "image_size": 224, **changed})


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_covers(model: nn.Module) -> None:
    """Every parameter in exactly one stage, each stage with some, the classifier in the last one."""
    cut = stages(model)
    inside = [id(p) for _, modules in cut for module in modules for p in module.parameters()]
    assert len(inside) == len(set(inside))
    strays = {name for name, parameter in model.named_parameters() if id(parameter) not in inside}
    assert strays <= {"class_token", "encoder.pos_embedding"}  # ViT's, which no module of their own holds
    found = stage_parameters(model)
    assert [name for name, _ in found] == [name for name, _ in cut]
    assert len({name for name, _ in cut}) == len(cut)
    assert all(parameters for _, parameters in found)
    assert sorted(name for _, some in found for name, _ in some) == sorted(n for n, _ in model.named_parameters())
    *_, classifier = (part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d))
    assert classifier in [part for module in cut[-1][1] for part in module.modules()]
    first = next(part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d))
    assert first in [part for module in cut[0][1] for part in module.modules()]


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


# ---------------------------------------------------------------- torchvision


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


# ---------------------------------------------------------------- stages


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


# ---------------------------------------------------------------- presets

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
