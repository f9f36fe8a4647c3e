"""Stacked network: N networks of one structure in one forward pass.

Activations have concatenated channels, `[B, N * C, H, W]` or `[B, N * F]`, network by network. Containers, pools and
nonlinearities work on them unchanged. Layers with weights have a stacked forward (`runner.execution.fused.layers`). All
other layers are called for each network. Weights are stacked, `[N, ...]`; each network's own parameters are views of
their rows. Networks that mix channels in other ways are mapped as a whole by `torch.func.vmap`.

Images shared by all networks are `Broadcast`, `[B, C, H, W]`, up to the first layer with weights.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from runner.execution.features.cut import Cut, Rest
from runner.execution.fused.broadcast import Broadcast, broadcast, repeat_channels, unmark
from runner.execution.fused.layers import STACKED, StackedForward
from runner.model.attention import plain_attention
from runner.model.noise import Noise

# layers without weights that treat every channel alike
CHANNELWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign, nn.Flatten),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.ConstantPad2d),
    nn.utils.parametrize.ParametrizationList,  # a container, though it holds the weight
)


class StackedNetwork(nn.Module):
    """Maps images `[B, N * C, H, W]`, or `Broadcast`, to logits `[B, N, K]` of N networks of one structure.

    Each network's own parameters and buffers become views of the stacks. None in `models` is an empty slot.

    mapped: use `torch.func.vmap`; the networks must be `mappable`. same_noise: all networks draw equal noise.
    """

    def __init__(self, models: list[nn.Module | None], mapped: bool = False, same_noise: bool = False):
        super().__init__()
        self.count, self._same_noise = len(models), same_noise
        lead = next(model for model in models if model is not None)
        self._lead = models.index(lead)
        models = _fill(models, lead)
        self.stacks: list[tuple[Tensor, list[Tensor]]] = []  # of parameters [N, ...], and each network's own
        self.statistics: list[tuple[Tensor, list[Tensor]]] = []  # the same for buffers
        self._stack_of: dict[int, Tensor] = {}  # by id of the first network's tensor, for weights that layers share
        shared = [*models[0].parameters(), *models[0].buffers()]
        shared += [module.noise for module in models[0].modules() if isinstance(module, Noise)]
        self.body = copy.deepcopy(models[0], {id(item): item for item in shared})  # all but these
        pairs = zip(self.body.modules(), lead.modules(), strict=True)
        self._modes = [(norm, own) for norm, own in pairs if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
        looped: list[str] = []  # paths of modules that are called for each network
        for path, module in list(self.body.named_modules()):
            members = [model.get_submodule(path) for model in models]
            self._stack(module, members)
            if mapped or any(path.startswith(f"{outer}.") or outer == "" for outer in looped):
                continue
            if self._replace_forward(path, module, members):
                looped.append(path)
        self.shares_nothing = "" in looped
        self._rests: tuple[Rest, Rest] | None = None  # with cached features: for stacked and for `Broadcast` inputs
        if mapped:
            self.body.forward = functools.partial(_map, lead, self.body, self.count)

    def forward(self, images: Tensor) -> Tensor:
        for norm, own in self._modes:  # the mode may change between epochs, for all networks alike
            norm.training = own.training
        network = self.body if self._rests is None else self._rests[isinstance(images, Broadcast)]
        logits = network(images)
        if isinstance(logits, Broadcast):
            raise RuntimeError("no layer with weights")
        return logits.unflatten(1, (self.count, -1))

    def enter(self, cut: Cut, device: torch.device) -> None:
        """Take features of this cut as input from now on."""
        self._rests = Rest(self.body, cut.side_by_side(self.count), device), Rest(self.body, cut, device)

    @torch.no_grad()
    def unstack(self) -> None:
        """Give each network its own copy of its weights and buffers."""
        for _, own in (*self.stacks, *self.statistics):
            for tensor in own:
                tensor.data = tensor.data.clone()

    def _replace_forward(self, path: str, module: nn.Module, members: list[nn.Module]) -> bool:
        """Replace a module's forward by one for all networks; return whether it calls each network's own module."""
        make = STACKED.get(_layer_type(module))
        if make is not None and (forward := make(module, members)) is not None:
            module.forward = forward
            return False
        if type(module) in CHANNELWISE or _is_container(module):
            return False
        module._forward_hooks.clear()  # because each network's own hooks are called
        module._forward_pre_hooks.clear()
        axis = 0 if ".parametrizations." in f".{path}" else 1
        module.forward = functools.partial(_loop, members, self._weight_rows(module), axis)
        if isinstance(module, Noise) and not any(member._forward_hooks for member in members):
            module.forward = functools.partial(_apply_noise, members, self._lead, self._same_noise, module.forward)
        return True

    def _stack(self, module: nn.Module, members: list[nn.Module]) -> None:
        for kind in ("_parameters", "_buffers"):
            for name, first in vars(module)[kind].items():
                if first is not None:
                    vars(module)[kind][name] = self._stack_tensor(
                        first, [vars(member)[kind][name] for member in members]
                    )

    def _stack_tensor(self, first: Tensor, own: list[Tensor]) -> Tensor:
        """Stack the networks' own tensors, make these views of its rows, and return the stack."""
        if id(first) in self._stack_of:
            return self._stack_of[id(first)]
        with torch.no_grad():
            stack = torch.stack([tensor.detach() for tensor in own]).contiguous()
        for tensor, row in zip(own, stack.unbind(0)):
            tensor.data = row
        if isinstance(first, nn.Parameter):
            stack = nn.Parameter(stack, first.requires_grad)
            self.stacks.append((stack, own))
        else:
            self.statistics.append((stack, own))
        self._stack_of[id(first)] = self._stack_of[id(stack)] = stack
        return stack

    def _weight_rows(self, module: nn.Module) -> Callable[[], list[dict[str, Tensor]]]:
        """Return a function for each network's weights of a module, as differentiable rows of the stacks."""

        def rows() -> list[dict[str, Tensor]]:
            unbound = {name: stack.unbind(0) for name, stack in module.named_parameters()}
            return [{name: parts[i] for name, parts in unbound.items()} for i in range(self.count)]

        return rows


def _fill(models: list[nn.Module | None], like: nn.Module) -> list[nn.Module]:
    """Return the models with copies of `like` in the empty slots."""
    layers = [module for module in like.modules() if isinstance(module, Noise)]
    generators = {id(layer.noise): torch.Generator(layer.noise.device) for layer in layers}
    return [copy.deepcopy(like, dict(generators)) if model is None else model for model in models]


def _loop(members: list[nn.Module], rows: Callable[[], list[dict[str, Tensor]]], axis: int, x: Tensor) -> Tensor:
    """Apply each network's own layer to its part of the activations; axis: 0 for weights, 1 for channels."""
    x = repeat_channels(x, len(members))
    if axis == 0:  # weights of a parametrization
        parts = x.unbind(0)
    else:  # not `chunk`, because its outputs cannot be changed in place
        width = x.shape[1] // len(members)
        parts = [x.narrow(1, number * width, width) for number in range(len(members))]
    outputs = [
        functional_call(member, weights, (part,)) if weights else member(part)
        for member, weights, part in zip(members, rows(), parts)
    ]
    return torch.stack(outputs) if axis == 0 else torch.cat(outputs, 1)


def _apply_noise(members: list[Noise], lead: int, same_noise: bool, loop: StackedForward, x: Tensor) -> Tensor:
    """Apply noise, drawn once if all networks' inputs and draws are equal; `lead`: a slot that is not empty."""
    first = members[lead]
    if not isinstance(x, Broadcast) or (first.active and not same_noise):
        return loop(x)
    output = broadcast(first(unmark(x)))
    if first.active and first.noise is not None:
        state = first.noise.get_state()
        for member in members:
            if member.noise is not first.noise:
                member.noise.set_state(state)
    return output


def _map(like: nn.Module, body: nn.Module, count: int, x: Tensor) -> Tensor:
    """Map all networks by vmap; `like`: one of them; `body`: holds the stacked weights."""

    def forward(weights: dict[str, Tensor], buffers: dict[str, Tensor], part: Tensor) -> Tensor:
        return functional_call(like, (weights, buffers), (part,))

    weights, buffers = dict(body.named_parameters()), dict(body.named_buffers())
    parts, axis = (unmark(x), None) if isinstance(x, Broadcast) else (x.unflatten(1, (count, -1)), 1)
    with plain_attention():  # because vmap would loop over other attention kernels
        return torch.vmap(forward, in_dims=(0, 0, axis), out_dims=1)(weights, buffers, parts).flatten(1)


def mappable(models: list[nn.Module]) -> str:
    """Return why networks of one structure cannot be mapped; empty if they can."""
    # a mapped layer runs one network's code and generator with the weights of all
    for layers in zip(*(model.modules() for model in models), strict=True):
        first = layers[0]
        if isinstance(first, Noise) and getattr(first, "p", 1) > 0:
            return f"{type(first).__name__} draws for each network from a generator of its own"
        if first._forward_hooks or first._forward_pre_hooks:
            return f"{type(first).__name__} has hooks"
        if any(_options(layer) != _options(first) for layer in layers):
            return f"{type(first).__name__} has other options in other networks"
    return ""


def _options(layer: nn.Module) -> dict[str, Any]:
    """Return the attributes of a layer that are plain Python values."""
    plain = bool | int | float | str | tuple | None
    return {key: value for key, value in vars(layer).items() if isinstance(value, plain) and key != "training"}


def _layer_type(module: nn.Module) -> type[nn.Module]:
    """Return the class of a layer, without the subclass that a parametrization makes."""
    kind = type(module)
    return kind.__mro__[1] if nn.utils.parametrize.is_parametrized(module) else kind


def _is_container(module: nn.Module) -> bool:
    """Return whether a module has submodules and no tensors of its own."""
    return bool(module._modules) and not module._parameters and not module._buffers
