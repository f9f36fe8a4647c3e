"""Weights from elsewhere, fitted to a network, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from runner.core.errors import ConfigError
from runner.core.text import few
from runner.model.presets import Preset
from runner.transfer.part import refuse_small_part
from runner.transfer.stem import stem


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and what is known of where they come from."""

    state: Mapping[str, Tensor]
    digest: str  # sha256 of the contents
    origin: str  # in words
    preset: Preset | None = None  # sizes and normalisation they were trained with
    classes: tuple[str, ...] | None = None  # of their head, where known
    channels: int | None = None  # that enter their network, where known
    transform_input: bool = True  # as torchvision sets it with weights, see `runner.transfer.published`


@dataclass
class Audit:
    """Which tensors of a network came from elsewhere."""

    origin: str
    loaded: set[str] = field(default_factory=set)  # names of the network's parameters and buffers
    adapted: dict[str, str] = field(default_factory=dict)  # name -> how
    unfit: dict[str, str] = field(default_factory=dict)  # name -> both shapes
    missing: list[str] = field(default_factory=list)  # of the network, not in the file
    unused: list[str] = field(default_factory=list)  # of the file, not in the network

    @property
    def line(self) -> str:
        """In one line."""
        words = [f"{len(self.loaded)} tensors from {self.origin}"]
        words += [f"{name} {how}" for name, how in self.adapted.items()]
        words += [f"new: {few([*self.unfit, *self.missing])}"] if self.unfit or self.missing else []
        words += [f"not used: {few(self.unused)}"] if self.unused else []
        return "; ".join(words)


@torch.no_grad()
def fit(model: nn.Module, weights: Weights, classes: tuple[str, ...], head: set[str]) -> Audit:
    """Puts the weights into a network where names and shapes agree. Raises `ConfigError` where nothing does.

    A first convolution for another number of channels is adapted (`channels`). `head`: names of the last stage, whose
    rows, one a class, start anew for other classes.
    """
    audit = Audit(weights.origin)
    target = model.state_dict(keep_vars=True)
    other_head = weights.classes is not None and weights.classes != classes
    for name, tensor in target.items():
        value = weights.state.get(name)
        if value is None:
            audit.missing.append(name)
        elif name in head and other_head and value.shape == tensor.shape and len(value) == len(classes):
            audit.unfit[name] = "other classes"
        elif value.shape == tensor.shape:
            tensor.copy_(value)
            audit.loaded.add(name)
        elif name == stem(model) and value.ndim == 4 and value[:, :1].shape == tensor[:, :1].shape:
            tensor.copy_(channels(value, tensor.shape[1]))
            audit.loaded.add(name)
            audit.adapted[name] = f"adapted from {value.shape[1]} channels to {tensor.shape[1]}"
        else:
            audit.unfit[name] = f"{list(value.shape)} in the file, {list(tensor.shape)} here"
    audit.unused = [name for name in weights.state if name not in target]
    shared = [name for name in audit.loaded if target[name].ndim]
    if not shared:
        theirs = few(audit.unused) or "other shapes"
        raise ConfigError(
            f"transfer.weights: nothing of {weights.origin} fits this model (it has {theirs}; the model has "
            f"{few(target)}): choose the model that the weights are of"
        )
    body = {name: tensor for name, tensor in model.named_parameters() if name not in head}
    theirs = {name: tensor for name, tensor in weights.state.items() if name not in head}
    refuse_small_part(weights.origin, body, theirs, audit.loaded)
    return audit


@torch.no_grad()
def fit_rest(model: nn.Module, weights: Weights, audit: Audit) -> None:
    """Puts in what the network has only since its stack changed it, such as the norms of a run with
    `regularization=[batchnorm]`."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in audit.unused and weights.state[name].shape == tensor.shape:
            tensor.copy_(weights.state[name])
            audit.loaded.add(name)
            audit.unused.remove(name)


def channels(kernel: Tensor, count: int) -> Tensor:
    """A first convolution's kernel `[O, C, k, k]` for `count` channels: summed to fewer, shared out among more, so that
    its answer to images whose channels are equal stays."""
    have = kernel.shape[1]
    if count < have:
        return torch.stack([kernel[:, first::count].sum(1) for first in range(count)], 1)
    source = [i % have for i in range(count)]
    return torch.stack([kernel[:, i] / source.count(i) for i in source], 1)


def stem_channels(model: nn.Module, weights: Weights) -> int | None:
    """Return the channels of images that weights are for; None where that is not known."""
    kernel = weights.state.get(stem(model) or "")
    return weights.channels if kernel is None or kernel.ndim != 4 else kernel.shape[1]
