"""Files of weights under the names that torchvision publishes."""

import re
from collections import OrderedDict

import torch
from torchvision import models
from torchvision.models import WeightsEnum

OPTIONS = {
    "googlenet": {"init_weights": False},  # which takes long
    "inception_v3": {"init_weights": False},
    "vit_h_14": {"image_size": 518},  # as `weights=` builds it
}


def shuffled(name: str) -> dict[str, torch.Tensor]:
    """The state of torchvision's network, every number drawn at random."""
    draws = torch.Generator().manual_seed(0)
    with torch.device("cpu" if "regnet" in name else "meta"):  # RegNet computes its widths with tensors
        state = models.get_model(name, weights=None, **OPTIONS.get(name, {})).state_dict()
    follows = re.compile("relative_position_index|relative_coords_table")  # from the sizes
    tables = models.get_model(name, weights=None).state_dict() if any(map(follows.search, state)) else {}
    for key, value in state.items():
        if follows.search(key):
            state[key] = tables[key]
        elif key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif value.ndim > 1:
            state[key] = 2 * torch.randn(value.shape, generator=draws) / value[0].numel() ** 0.5
        else:
            state[key] = torch.randn(value.shape, generator=draws) / 10 + key.endswith(("running_var", ".weight"))
    return state


def published(name: str, state: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """A state under the names of the file that torchvision publishes."""
    file = OrderedDict()
    for key, value in state.items():
        if "densenet" in name:
            if key.endswith("num_batches_tracked"):  # these files are older than those
                continue
            key = re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key)
        elif "vit_" in name:
            key = key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")
        file[key] = value
    if "mnasnet" in name:  # which reads its version there
        file._metadata = {"": {"version": 2}}
    return file


def theirs(name: str, images: torch.Tensor, monkeypatch) -> torch.nn.Module:
    """The network as `weights=` builds it, from a file of random numbers in place of the download; its norms have seen
    the images, so that these reach the other end."""
    file = published(name, shuffled(name))
    with monkeypatch.context() as patch:
        patch.setattr(WeightsEnum, "get_state_dict", lambda *args, **options: file)
        model = models.get_model(name, weights="DEFAULT").eval()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 0.9
    model(images)
    return model.eval()
