"""A network as a list of stages from input to head, for freezing, layer-wise rates, unfreezing and caching.

The stages of torchvision's families are in one table, keyed by the class's full name, so that this module
imports no torchvision. Any other network is cut into its children. A class can register its own stages:

    @stages.register
    def _(model: MyNet) -> list[Stage]: ...
"""

import functools
import re
from collections.abc import Callable

from torch import nn

Stage = tuple[str, list[nn.Module]]
Cut = Callable[[nn.Module], list[Stage]]
PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original$")


@functools.singledispatch
def stages(model: nn.Module) -> list[Stage]:
    """Return the named stages, input first, head last. No parameter is in two; names are unique.

    These lists miss a parameter directly on a module outside all stages (a class token, a position embedding).
    `stage_parameters` includes it.
    """
    kind = type(model)  # not isinstance, because a subclass may have layers that the table does not know
    cuts = TORCHVISION.get(f"{kind.__module__}.{kind.__qualname__}")
    if cuts is None:
        return by_children(model)
    return [stage for cut in cuts for stage in cut(model)]


def stage_parameters(model: nn.Module) -> list[tuple[str, list[tuple[str, nn.Parameter]]]]:
    """Return every parameter once, by stage, with its full dotted name.

    A shared parameter belongs to the first of its stages. A parameter outside all stages belongs to the first
    stage, because such parameters (embeddings) are at the input.
    """
    cut = stages(model)
    owner: dict[nn.Parameter, str] = {}
    for stage, modules in cut:
        for module in modules:
            for parameter in module.parameters():
                owner.setdefault(parameter, stage)
    by_stage: dict[str, list[tuple[str, nn.Parameter]]] = {stage: [] for stage, _ in cut}
    for name, parameter in model.named_parameters():
        by_stage[owner.get(parameter, cut[0][0])].append((name, parameter))
    return list(by_stage.items())


def raw_name(name: str) -> str:
    """Return a tensor's name without parametrization."""
    return PARAMETRIZED.sub(r"\1", name)


def by_children(model: nn.Module) -> list[Stage]:
    """Return one stage for each child with parameters, in the order of registration.

    A single child without direct parameters is a wrapper: its own stages are returned. A child with only buffers
    (a norm without weights) joins the stage before it, so that freezing a stage freezes its statistics.
    """
    with_parameters = [(name, child) for name, child in model.named_children() if _any(child.parameters())]
    if not with_parameters:
        return [("head", [model])]
    if len(with_parameters) == 1 and not _any(with_parameters[0][1].parameters(recurse=False)):
        return stages(with_parameters[0][1])
    result: list[Stage] = []
    for name, child in model.named_children():
        if _any(child.parameters()):
            result.append((name, [child]))
        elif result and _any(child.buffers()):
            result[-1][1].append(child)
    return result


def single(name: str, *paths: str) -> Cut:
    """Return a cut into one stage of the modules at `paths`, without those that a variant of the family lacks."""

    def cut(model: nn.Module) -> list[Stage]:
        modules = dict(model.named_modules())
        return [(name, [modules[path] for path in paths if path in modules])]

    return cut


def per_child(name: str, path: str, start: int = 0) -> Cut:
    """Return a cut into one stage per child of `path` from index `start` on: `name1`, `name2`, ..."""

    def cut(model: nn.Module) -> list[Stage]:
        parts = list(model.get_submodule(path).children())[start:]
        return [(f"{name}{number}", [part]) for number, part in enumerate(parts, start=1)]

    return cut


def per_resolution(name: str, path: str, start: int = 0) -> Cut:
    """Return a cut of `path`'s children from index `start` on; a new stage starts where the resolution drops."""

    def cut(model: nn.Module) -> list[Stage]:
        groups: list[list[nn.Module]] = [[]]
        for part in list(model.get_submodule(path).children())[start:]:
            if groups[-1] and any(map(_reduces_resolution, part.modules())):
                groups.append([])
            if _any(part.parameters()):
                groups[-1].append(part)
        return [(f"{name}{number}", group) for number, group in enumerate(filter(None, groups), start=1)]

    return cut


def _reduces_resolution(module: nn.Module) -> bool:
    if isinstance(module, nn.FractionalMaxPool2d):
        return True
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return False
    return module.stride not in (1, (1, 1))


def _any(tensors) -> bool:
    return next(iter(tensors), None) is not None


# By class name below torchvision.models. tests/model/test_torchvision_model.py checks it against all of them.
_FAMILIES: dict[str, tuple[Cut, ...]] = {
    "alexnet.AlexNet": (
        single("stem", "features.0"),
        per_resolution("stage", "features", start=1),
        single("head", "classifier"),
    ),
    "convnext.ConvNeXt": (
        single("stem", "features.0"),
        single("stage1", "features.1"),
        single("stage2", "features.2", "features.3"),
        single("stage3", "features.4", "features.5"),
        single("stage4", "features.6", "features.7"),
        single("head", "classifier"),
    ),
    "densenet.DenseNet": (
        single("stem", "features.conv0", "features.norm0"),
        single("stage1", "features.denseblock1"),
        single("stage2", "features.transition1", "features.denseblock2"),
        single("stage3", "features.transition2", "features.denseblock3"),
        single("stage4", "features.transition3", "features.denseblock4", "features.norm5"),
        single("head", "classifier"),
    ),
    "efficientnet.EfficientNet": (
        single("stem", "features.0"),
        per_child("stage", "features", start=1),
        single("head", "classifier"),
    ),
    "googlenet.GoogLeNet": (
        single("stem", "conv1", "conv2", "conv3"),
        single("stage1", "inception3a", "inception3b"),
        single("stage2", "inception4a", "inception4b", "inception4c", "inception4d", "inception4e"),
        single("stage3", "inception5a", "inception5b"),
        single("head", "aux1", "aux2", "fc"),
    ),
    "inception.Inception3": (
        single("stem", "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        single("stage1", "Mixed_5b", "Mixed_5c", "Mixed_5d"),
        single("stage2", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        single("stage3", "Mixed_7a", "Mixed_7b", "Mixed_7c"),
        single("head", "AuxLogits", "fc"),
    ),
    "maxvit.MaxVit": (single("stem", "stem"), per_child("stage", "blocks"), single("head", "classifier")),
    "mnasnet.MNASNet": (per_resolution("stage", "layers"), single("head", "classifier")),
    "mobilenetv2.MobileNetV2": (
        single("stem", "features.0"),
        per_resolution("stage", "features", start=1),
        single("head", "classifier"),
    ),
    "mobilenetv3.MobileNetV3": (
        single("stem", "features.0"),
        per_resolution("stage", "features", start=1),
        single("head", "classifier"),
    ),
    "regnet.RegNet": (single("stem", "stem"), per_child("stage", "trunk_output"), single("head", "fc")),
    "resnet.ResNet": (
        single("stem", "conv1", "bn1"),
        single("layer1", "layer1"),
        single("layer2", "layer2"),
        single("layer3", "layer3"),
        single("layer4", "layer4"),
        single("head", "fc"),
    ),
    "shufflenetv2.ShuffleNetV2": (
        single("stem", "conv1"),
        single("stage2", "stage2"),
        single("stage3", "stage3"),
        single("stage4", "stage4"),
        single("conv5", "conv5"),
        single("head", "fc"),
    ),
    "squeezenet.SqueezeNet": (
        single("stem", "features.0"),
        per_resolution("stage", "features", start=1),
        single("head", "classifier"),
    ),
    "swin_transformer.SwinTransformer": (
        single("stem", "features.0"),
        single("stage1", "features.1"),
        single("stage2", "features.2", "features.3"),
        single("stage3", "features.4", "features.5"),
        single("stage4", "features.6", "features.7"),
        single("head", "norm", "head"),
    ),
    "vgg.VGG": (per_resolution("stage", "features"), single("head", "classifier")),
    "vision_transformer.VisionTransformer": (
        single("stem", "conv_proj"),  # stage_parameters adds the class token and position embedding
        per_child("layer", "encoder.layers"),
        single("head", "encoder.ln", "heads"),
    ),
}
TORCHVISION = {f"torchvision.models.{name}": cuts for name, cuts in _FAMILIES.items()}
