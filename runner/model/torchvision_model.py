"""torchvision's classifiers for any number of channels and classes, with stems for small images."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torchvision
from pydantic import StrictBool
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torchvision import models

from runner.core.errors import ConfigError, did_you_mean

SMALL = 64  # pixels: up to this size `small_images: auto` changes the stem
MAXVIT_STEP = 224  # pixels: windows of 7 on a feature map that is 32 times smaller
FEWEST_PATCHES = 7  # per side, as in ViT-B/32 at 224 pixels


@dataclass(frozen=True)
class Stem:
    """Stem for small images: the first convolution, and the pools to remove (`without`)."""

    kernel: int
    stride: int
    without: tuple[str, ...] = ()


# As for CIFAR in He et al. 2015 (4.2), Huang et al. 2017 (DenseNet) and github.com/kuangliu/pytorch-cifar;
# ConvNeXt and Swin get 2x2 patches. For other families no such convention is established.
SMALL_STEMS: dict[type[nn.Module], Stem] = {
    models.ResNet: Stem(3, 1, without=("maxpool",)),
    models.DenseNet: Stem(3, 1, without=("features.pool0",)),
    models.ShuffleNetV2: Stem(3, 1, without=("maxpool",)),
    models.GoogLeNet: Stem(3, 1, without=("maxpool1", "maxpool2")),
    models.SqueezeNet: Stem(3, 1),
    models.MobileNetV2: Stem(3, 1),
    models.MobileNetV3: Stem(3, 1),
    models.MNASNet: Stem(3, 1),
    models.EfficientNet: Stem(3, 1),
    models.RegNet: Stem(3, 1),
    models.ConvNeXt: Stem(2, 2),
    models.SwinTransformer: Stem(2, 2),
}

# Further constructor arguments of a family, by its module.
CONSTRUCTOR: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "torchvision.models.googlenet": lambda name, size: {"aux_logits": False, "init_weights": True},
    "torchvision.models.inception": lambda name, size: {"aux_logits": False, "init_weights": True},
    "torchvision.models.maxvit": lambda name, size: {"input_size": _maxvit_size(name, size)},
}


def build(
    name: str,
    small_images: StrictBool | Literal["auto"] = "auto",
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
) -> nn.Module:
    """Build `torchvision.models.<name>`, untrained: images [B, C, H, W] to logits [B, K].

    The first convolution is replaced if the channels or the stem differ from torchvision's. The other layers have
    torchvision's init. `small_images`: `auto` changes the stem up to 64 pixels, if the family has a stem for small
    images; `true` always, and raises ConfigError for other families; `false` never.
    """
    check_name(name)
    family = models.get_model_builder(name).__module__
    options = CONSTRUCTOR[family](name, image_size) if family in CONSTRUCTOR else {}
    with _ConstantsOnCpu():
        model = models.get_model(name, weights=None, num_classes=num_classes, **options)
    model.to(torch.empty(0).device)  # tensors that _ConstantsOnCpu left on the CPU

    stem = SMALL_STEMS.get(type(model))
    transformer = isinstance(model, models.VisionTransformer)
    if small_images is True and stem is None and not transformer:
        raise ConfigError(f"model.small_images=true: {name} has no stem for small images; use auto or false")
    small = image_size <= SMALL if small_images == "auto" else small_images
    if small and stem is not None:
        for path in stem.without:
            model.set_submodule(path, nn.Identity())
        replace_first_conv(model, in_channels, stem.kernel, stem.stride)
    elif transformer:
        patch = _small_patch(model, image_size) if small else model.patch_size
        _fit_patches(model, name, in_channels, image_size, patch)
    elif in_channels != first_conv(model)[1].in_channels:
        replace_first_conv(model, in_channels)
    _check_size(model, name, in_channels, image_size)
    return model


def check_name(name: str) -> None:
    """Raise ConfigError unless torchvision has a classifier of this name."""
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(
            f"model.name={name} is no classifier of torchvision {torchvision.__version__}"
            f"{did_you_mean(name, known) or '; torchvision.models.list_models() names them all'}"
        )


def first_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the first convolution and its dotted name."""
    return next((path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d))


def replace_first_conv(
    model: nn.Module, in_channels: int, kernel: int | None = None, stride: int | None = None
) -> None:
    """Replace the first convolution by a new one for `in_channels`, with He normal init (fan out) and zero bias.

    Patch embeddings (kernel = stride) get LeCun normal init, as in ViT, because no ReLU follows them.
    """
    path, old = first_conv(model)
    size = old.kernel_size if kernel is None else (kernel, kernel)
    step = old.stride if stride is None else (stride, stride)
    padding = old.padding if kernel is None else (0 if size == step else (kernel - 1) // 2)
    new = nn.Conv2d(in_channels, old.out_channels, size, step, padding, bias=old.bias is not None)
    if size == step:
        nn.init.trunc_normal_(new.weight, std=(in_channels * size[0] * size[1]) ** -0.5)
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    model.set_submodule(path, new)


class _ConstantsOnCpu(TorchFunctionMode):
    """Mode that keeps constants on the CPU: RegNet computes its widths with tensors, which fails on meta."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.arange, torch.tensor):
            kwargs = {"device": "cpu", **kwargs}
        return function(*args, **kwargs)


def _maxvit_size(name: str, image_size: int) -> tuple[int, int]:
    if image_size % MAXVIT_STEP:
        raise ConfigError(
            f"{name} takes images of {MAXVIT_STEP} pixels or a multiple, not {image_size}: "
            "choose that size or another model"
        )
    return image_size, image_size


def _small_patch(model: models.VisionTransformer, image_size: int) -> int:
    """Return the largest patch size that divides the image into at least 7 per side: 4 at 28 and 32 pixels, 8 at 64."""
    largest = min(model.patch_size, max(1, image_size // FEWEST_PATCHES))
    return max(patch for patch in range(1, largest + 1) if image_size % patch == 0)


def _fit_patches(model: models.VisionTransformer, name: str, in_channels: int, image_size: int, patch: int) -> None:
    """Set the patch size in pixels, and the position embedding for images of `image_size` pixels."""
    if image_size % patch:
        below = image_size // patch * patch
        sizes = f"{below} or {below + patch}" if below else f"{patch}"
        raise ConfigError(
            f"{name} cuts images into patches of {patch} pixels, and {image_size} is no multiple of it: "
            f"choose {sizes} pixels or another model"
        )
    if (in_channels, patch) != (first_conv(model)[1].in_channels, model.patch_size):
        replace_first_conv(model, in_channels, patch, patch)
    if (image_size, patch) != (model.image_size, model.patch_size):
        model.image_size, model.patch_size = image_size, patch
        model.seq_length = (image_size // patch) ** 2 + 1
        positions = torch.empty(1, model.seq_length, model.hidden_dim).normal_(std=0.02)  # torchvision's init
        model.encoder.pos_embedding = nn.Parameter(positions)


def _check_size(model: nn.Module, name: str, in_channels: int, image_size: int) -> None:
    """Raise ConfigError for images too small for the network."""
    min_size = max(models.get_model_weights(name).DEFAULT.meta["min_size"])
    if image_size >= min_size or isinstance(model, models.VisionTransformer):
        return
    if not _accepts_size(model, in_channels, image_size):
        sizes = range(image_size + 1, min_size)
        smallest = sizes.start + bisect_left(sizes, True, key=lambda size: _accepts_size(model, in_channels, size))
        raise ConfigError(
            f"{name} needs images of at least {smallest} pixels a side, not {image_size}: "
            "choose larger images or another model"
        )


def _accepts_size(model: nn.Module, in_channels: int, image_size: int) -> bool:
    """Return whether a forward pass works at this size, tried on the meta device."""
    state = {path: tensor.to("meta") for path, tensor in model.state_dict(keep_vars=True).items()}
    images = torch.empty(1, in_channels, image_size, image_size, device="meta")
    training = model.training
    try:
        functional_call(model.eval(), state, images)
    except RuntimeError:  # "output size is too small", "kernel size can't be greater": torch has no narrower type
        return False
    finally:
        model.train(training)
    return True
