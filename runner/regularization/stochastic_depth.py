"""Stochastic depth (Huang, Sun, Liu, Sedra & Weinberger 2016), also known as drop path."""

from typing import Literal

import torch
import torchvision
from torch import nn
from torchvision.models import (
    convnext,
    efficientnet,
    maxvit,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    swin_transformer,
    vision_transformer,
)

from runner.core.context import Context
from runner.core.schema import Below1
from runner.model.drop_path import DropPath
from runner.regularization.base import Item

# The modules of torchvision's blocks that compute the residual branches, or the block's own StochasticDepth if it
# has one.
BRANCHES: dict[type[nn.Module], tuple[str, ...]] = {
    resnet.BasicBlock: ("bn2",),
    resnet.Bottleneck: ("bn3",),
    regnet.ResBottleneckBlock: ("f",),
    mobilenetv2.InvertedResidual: ("conv",),
    mobilenetv3.InvertedResidual: ("block",),
    mnasnet._InvertedResidual: ("layers",),
    efficientnet.MBConv: ("stochastic_depth",),
    efficientnet.FusedMBConv: ("stochastic_depth",),
    convnext.CNBlock: ("stochastic_depth",),
    swin_transformer.SwinTransformerBlock: ("stochastic_depth",),  # called twice, after attention and after the MLP
    vision_transformer.EncoderBlock: ("dropout", "mlp"),
    maxvit.MaxVitLayer: (
        "layers.MBconv.stochastic_depth",
        "layers.window_attention.stochastic_dropout",
        "layers.grid_attention.stochastic_dropout",
    ),
}
# Attributes that are False if a block changes the shape and so has no shortcut.
CONDITIONS = ("use_res_connect", "apply_residual")
MODELS = (
    "resnet20, resnet56, wide_resnet, resnet18, resnet50, convnext_tiny, efficientnet_b0, mobilenet_v2, "
    "mobilenet_v3_small, vit_b_16"
)


class StochasticDepth(Item):
    """Random drops of residual branches: block l of L with probability `p * l / L` (`linear`) or p (`uniform`).

    A block is one of torchvision's, or any module with the children `branch` and `shortcut`. All branches of a block
    (attention and MLP of a transformer) have its probability and separate draws. The stochastic depth of torchvision's
    EfficientNet, ConvNeXt, Swin and MaxViT is replaced.
    """

    def __init__(
        self,
        p: Below1 = 0.5,
        decay: Literal["linear", "uniform"] = "linear",
        per: Literal["sample", "batch"] = "sample",
    ):
        self.p, self.decay, self.per = p, decay, per

    def check(self, context: Context) -> str | None:
        if blocks(context.model):
            return None
        return (
            f"regularization=[stochastic_depth]: {type(context.model).__name__} has no residual branches to drop; "
            f"models that have them: {MODELS}"
        )

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        residual_blocks = blocks(model)
        for number, (block, paths) in enumerate(residual_blocks, start=1):
            p = self.p * number / len(residual_blocks) if self.decay == "linear" else self.p
            for path in paths:
                drop, branch = DropPath(p, self.per, noise), block.get_submodule(path)
                if isinstance(branch, torchvision.ops.StochasticDepth | DropPath | nn.Identity):
                    block.set_submodule(path, drop)
                else:
                    block.add_module(f"{path}_drop", drop)
                    branch.register_forward_hook(drop.hook)


def blocks(model: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Return the residual blocks in order of depth, each with the paths of its branches."""
    candidates = [(block, branch_paths(block)) for block in model.modules()]
    return [(block, branches) for block, branches in candidates if branches]


def branch_paths(block: nn.Module) -> tuple[str, ...]:
    """Return the paths of a module's residual branches; empty if it is not a residual block."""
    if {"branch", "shortcut"} <= dict(block.named_children()).keys():
        return ("branch",)
    if not all(vars(block).get(condition, True) for condition in CONDITIONS):
        return ()
    return next((branches for kind, branches in BRANCHES.items() if isinstance(block, kind)), ())
