"""Networks with norms, and the words that configure them."""

import torch

from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.regularization.batchnorm import BatchNorm
from runner.regularization.ghost_batchnorm import GhostBatchNorm
from runner.regularization.groupnorm import GroupNorm
from runner.regularization.layernorm import LayerNorm

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
CONVNET = ("model=convnet", "model.channels=[4,8]", "model.hidden=8", "epochs=1")
NORMS = {"batchnorm": BatchNorm, "groupnorm": GroupNorm, "layernorm": LayerNorm, "ghost_batchnorm": GhostBatchNorm}
KEYS = {"groupnorm": {"num_groups": 2}, "ghost_batchnorm": {"ghost_batch_size": 4}}  # that fit small networks


def networks():
    torch.manual_seed(0)
    return {"mlp": MLP([16, 8], **SHAPE), "convnet": ConvNet([4, 8], 8, **SHAPE)}


def built(name, network="convnet", **keys):
    """A small network with the item's norms."""
    model = networks()[network]
    NORMS[name](**KEYS.get(name, {}) | keys).modify(model, None)
    return model


def images(count=12, seed=1):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
