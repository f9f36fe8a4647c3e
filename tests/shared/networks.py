"""Networks of every option of conf/model, and checks of their stages."""

import torch
from torch import nn
from torchvision import models

from runner.model import torchvision_model
from runner.model.stages import stage_parameters, stages

TORCHVISION = models.list_models(module=models)
COLOUR = {"in_channels": 3, "num_classes": 10, "image_size": 32}


def build_meta(name: str, **changed) -> nn.Module:
    with torch.device("meta"):
        return torchvision_model.build(name, **{**COLOUR, "image_size": 224, **changed})


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
