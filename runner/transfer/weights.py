"""Loaded weights: their copy into a network, and an audit of which tensors fit."""

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
    """Tensors by name, with the known facts about their origin."""

    state: Mapping[str, Tensor]
    digest: str  # sha256 of the contents
    origin: str  # as text
    preset: Preset | None = None  # image sizes and normalization of their training
    classes: tuple[str, ...] | None = None  # of their head, if known
    channels: int | None = None  # of the images, if known
    transform_input: bool = True  # as torchvision sets it with weights, see `runner.transfer.published`


@dataclass
class Audit:
    """Audit of loading weights into a network."""

    origin: str
    loaded: set[str] = field(default_factory=set)  # names of the network's parameters and buffers
    adapted: dict[str, str] = field(default_factory=dict)  # name -> how
    unfit: dict[str, str] = field(default_factory=dict)  # name -> both shapes
    missing: list[str] = field(default_factory=list)  # in the network, not in the file
    unused: list[str] = field(default_factory=list)  # in the file, not in the network

    @property
    def line(self) -> str:
        """Return a summary in one line."""
        parts = [f"{len(self.loaded)} tensors from {self.origin}"]
        parts += [f"{name} {how}" for name, how in self.adapted.items()]
        parts += [f"new: {few([*self.unfit, *self.missing])}"] if self.unfit or self.missing else []
        parts += [f"not used: {few(self.unused)}"] if self.unused else []
        return "; ".join(parts)


@torch.no_grad()
def fit(model: nn.Module, weights: Weights, classes: tuple[str, ...], head: set[str]) -> Audit:
    """Copy the weights into a network where names and shapes match. Raises ConfigError if nothing matches.

    A first convolution for another number of channels is adapted (`channels`). `head`: names of the last stage's
    tensors. Those with one row per class are not loaded if the classes differ.
    """
    audit = Audit(weights.origin)
    target = model.state_dict(keep_vars=True)
    has_other_classes = weights.classes is not None and weights.classes != classes
    for name, tensor in target.items():
        value = weights.state.get(name)
        if value is None:
            audit.missing.append(name)
        elif name in head and has_other_classes and value.shape == tensor.shape and len(value) == len(classes):
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
        unused = few(audit.unused) or "other shapes"
        raise ConfigError(
            f"transfer.weights: nothing of {weights.origin} fits this model (it has {unused}; the model has "
            f"{few(target)}): choose the model that the weights are of"
        )
    body = {name: tensor for name, tensor in model.named_parameters() if name not in head}
    file_body = {name: tensor for name, tensor in weights.state.items() if name not in head}
    refuse_small_part(weights.origin, body, file_body, audit.loaded)
    return audit


@torch.no_grad()
def fit_rest(model: nn.Module, weights: Weights, audit: Audit) -> None:
    """Copy the weights of tensors that regularization items have added since, such as norms of `batchnorm`."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in audit.unused and weights.state[name].shape == tensor.shape:
            tensor.copy_(weights.state[name])
            audit.loaded.add(name)
            audit.unused.remove(name)


def channels(kernel: Tensor, count: int) -> Tensor:
    """Adapt a first convolution's kernel `[O, C, k, k]` to `count` channels.

    Channels are summed to fewer, or divided among more, so that the output for images with equal channels stays.
    """
    have = kernel.shape[1]
    if count < have:
        return torch.stack([kernel[:, first::count].sum(1) for first in range(count)], 1)
    source = [i % have for i in range(count)]
    return torch.stack([kernel[:, i] / source.count(i) for i in source], 1)


def stem_channels(model: nn.Module, weights: Weights) -> int | None:
    """Return the number of image channels that weights expect, or None if unknown."""
    kernel = weights.state.get(stem(model) or "")
    return weights.channels if kernel is None or kernel.ndim != 4 else kernel.shape[1]
