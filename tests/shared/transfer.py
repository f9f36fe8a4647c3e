"""Small networks, and the files of their weights."""

import json

import pytest
import torch

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.model.convnet import ConvNet
from runner.store import checkpoint
from runner.task.resources import Resources
from tests.shared.configs import composed

NET = ("model=convnet", "model.channels=[4,4]", "model.hidden=8")
STAGES = ("conv1", "conv2", "hidden", "head")
NORM = "regularization=[batchnorm]"
DIGITS = (*NET, "data.limit=80", "epochs=1", "log.tensorboard=false", "transfer.cache=false")


def network(classes=3, in_channels=1, seed=7):
    torch.manual_seed(seed)
    return ConvNet([4, 4], 8, in_channels=in_channels, num_classes=classes, image_size=8)


def saved(folder, state, name="weights.pth"):
    """The override that names a file with these tensors."""
    torch.save(state, folder / name)
    return f"transfer.weights={folder / name}"


def finished(folder, state, classes=("a", "b", "c"), members=None, mean=(0.4,), std=(0.25,)):
    """The override that names a finished run with these tensors."""
    folder.mkdir(parents=True)
    about = {"config": {}, "classes": classes, "channels": len(mean), "size": 8, "mean": mean, "std": std}
    members = [state] if members is None else members
    checkpoint.save(folder / checkpoint.FILE, {"about": json.dumps(about), "members": members or None})
    return f"transfer.weights={folder}"


def values(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def refusal(*overrides):
    """The line that a combination is refused with."""
    with pytest.raises((ConfigError, Refused)) as caught:
        Resources().preflight(check(composed(*(() if overrides[0].startswith("model=") else NET), *overrides)))
    lines = caught.value.lines if isinstance(caught.value, Refused) else [str(caught.value)]
    assert len(lines) == 1 and "\n" not in lines[0]
    return lines[0]
