"""Networks of one structure as one, whose layers have the weights of all.

Activations lie side by side in the channels: `[B, N * C, H, W]`, or `[B, N * F]`, the first network's first.
Containers, pools and nonlinearities work on that as they are; layers with weights have a form of their own
(`runner.execution.fused.layers`); whatever else is asked network by network. Weights are stacked `[N, ...]`, and each
network's own parameters are rows of these. Networks that mix what lies side by side are mapped as wholes, by
`torch.func.vmap`.

Images that are the same for all come `Broadcast`, `[B, C, H, W]`, and stay so up to the first layer with weights.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from runner.execution.features.cut import Cut, Rest
from runner.execution.fused.broadcast import Broadcast, beside, once, plain
from runner.execution.fused.layers import FORMS, Form
from runner.model.attention import plain_attention
from runner.model.noise import Noise

# Layers that treat every channel alike, and hold nothing.
ALIKE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign, nn.Flatten),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.Upsample),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.ConstantPad2d),
    nn.utils.parametrize.ParametrizationList,  # a container, though it holds the weight
)


class StackedNetwork(nn.Module):
    """Networks of one structure as one: images `[B, N * C, H, W]`, or `Broadcast`, to logits `[B, N, K]`.

    From then on parameters and buffers of each are views of `stacks`: whoever changes one changes the other. None is
    the place of a network that is not there any more.

    mapped: as a whole, for which it must be `mappable`. alike: their noise is the same, too, draw by draw.
    """

    def __init__(self, models: list[nn.Module | None], mapped: bool = False, alike: bool = False):
        super().__init__()
        self.count, self._alike = len(models), alike
        lead = next(model for model in models if model is not None)
        self._lead = models.index(lead)
        models = _filled(models, lead)
        self.stacks: list[tuple[Tensor, list[Tensor]]] = []  # of parameters [N, ...], and each network's own
        self.statistics: list[tuple[Tensor, list[Tensor]]] = []
        self._known: dict[int, Tensor] = {}  # by the first network's tensor, for weights that layers share
        own = [*models[0].parameters(), *models[0].buffers()]
        own += [module.noise for module in models[0].modules() if isinstance(module, Noise)]
        self.body = copy.deepcopy(models[0], {id(thing): thing for thing in own})
        pairs = zip(self.body.modules(), lead.modules(), strict=True)
        self._modes = [(norm, own) for norm, own in pairs if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
        inside: list[str] = []  # paths of what is asked network by network
        for path, module in list(self.body.named_modules()):
            members = [model.get_submodule(path) for model in models]
            self._stack(module, members)
            if mapped or any(path.startswith(f"{outer}.") or outer == "" for outer in inside):
                continue
            if self._give_form(path, module, members):
                inside.append(path)
        self.asks_each = "" in inside  # nothing is shared
        self._rests: tuple[Rest, Rest] | None = None  # after a cut: of all, and of one for all
        if mapped:
            self.body.forward = functools.partial(_mapped, lead, self.body, self.count)

    def forward(self, images: Tensor) -> Tensor:
        for norm, own in self._modes:  # changes from epoch to epoch, and for all alike
            norm.training = own.training
        network = self.body if self._rests is None else self._rests[isinstance(images, Broadcast)]
        found = network(images)
        if isinstance(found, Broadcast):
            raise RuntimeError("no layer with weights")
        return found.unflatten(1, (self.count, -1))

    def enter(self, cut: Cut, device: torch.device) -> None:
        """From now on the input is what crosses this cut of each network."""
        self._rests = Rest(self.body, cut.side_by_side(self.count), device), Rest(self.body, cut, device)

    @torch.no_grad()
    def unstack(self) -> None:
        """Gives each network weights of its own again."""
        for _, own in (*self.stacks, *self.statistics):
            for tensor in own:
                tensor.data = tensor.data.clone()

    def _give_form(self, path: str, module: nn.Module, members: list[nn.Module]) -> bool:
        """Makes a layer of the body the layer of all; True where that is to ask each."""
        form = FORMS.get(_kind(module))
        if form is not None and (found := form(module, members)) is not None:
            module.forward = found
            return False
        if type(module) in ALIKE or _container(module):
            return False
        module._forward_hooks.clear()  # each network's own are called
        module._forward_pre_hooks.clear()
        axis = 0 if ".parametrizations." in f".{path}" else 1
        module.forward = functools.partial(_each, members, self._held(module), axis)
        if isinstance(module, Noise) and not any(member._forward_hooks for member in members):
            module.forward = functools.partial(_drawn, members, self._lead, self._alike, module.forward)
        return True

    def _stack(self, module: nn.Module, members: list[nn.Module]) -> None:
        for kind in ("_parameters", "_buffers"):
            for name, first in vars(module)[kind].items():
                if first is not None:
                    vars(module)[kind][name] = self._rows(first, [vars(member)[kind][name] for member in members])

    def _rows(self, first: Tensor, own: list[Tensor]) -> Tensor:
        if id(first) in self._known:
            return self._known[id(first)]
        with torch.no_grad():
            stack = torch.stack([tensor.detach() for tensor in own]).contiguous()
        for tensor, row in zip(own, stack.unbind(0)):
            tensor.data = row
        if isinstance(first, nn.Parameter):
            stack = nn.Parameter(stack, first.requires_grad)
            self.stacks.append((stack, own))
        else:
            self.statistics.append((stack, own))
        self._known[id(first)] = self._known[id(stack)] = stack
        return stack

    def _held(self, module: nn.Module) -> Callable[[], list[dict[str, Tensor]]]:
        """Each network's weights of a layer, as rows that pass their gradients on to the stack."""

        def rows() -> list[dict[str, Tensor]]:
            apart = {name: stack.unbind(0) for name, stack in module.named_parameters()}
            return [{name: parts[i] for name, parts in apart.items()} for i in range(self.count)]

        return rows


def _filled(models: list[nn.Module | None], like: nn.Module) -> list[nn.Module]:
    """With copies of one in the places of those that are missing."""
    layers = [module for module in like.modules() if isinstance(module, Noise)]
    others = {id(layer.noise): torch.Generator(layer.noise.device) for layer in layers}
    return [copy.deepcopy(like, dict(others)) if model is None else model for model in models]


def _each(members: list[nn.Module], held: Callable[[], list[dict[str, Tensor]]], axis: int, x: Tensor) -> Tensor:
    """Each network's own layer on its own part."""
    x = beside(x, len(members))
    if axis == 0:  # of weights, as a parametrization sees them
        parts = x.unbind(0)
    else:  # not `chunk`, whose parts no layer may change in place
        width = x.shape[1] // len(members)
        parts = [x.narrow(1, number * width, width) for number in range(len(members))]
    found = [
        functional_call(member, weights, (part,)) if weights else member(part)
        for member, weights, part in zip(members, held(), parts)
    ]
    return torch.stack(found) if axis == 0 else torch.cat(found, 1)


def _drawn(members: list[Noise], lead: int, alike: bool, each: Form, x: Tensor) -> Tensor:
    """Noise on what is the same for all: drawn once where all would draw the same. `lead`: one that is not a
    filler."""
    first = members[lead]
    if not isinstance(x, Broadcast) or (first.active and not alike):
        return each(x)
    found = once(first(plain(x)))
    if first.active and first.noise is not None:
        state = first.noise.get_state()
        for member in members:
            if member.noise is not first.noise:
                member.noise.set_state(state)
    return found


def _mapped(like: nn.Module, body: nn.Module, count: int, x: Tensor) -> Tensor:
    """All networks at once; `like` is one of them, `body` holds the weights of all."""

    def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], part: Tensor) -> Tensor:
        return functional_call(like, (weights, buffers), (part,))

    weights, buffers = dict(body.named_parameters()), dict(body.named_buffers())
    parts, axis = (plain(x), None) if isinstance(x, Broadcast) else (x.unflatten(1, (count, -1)), 1)
    with plain_attention():  # another kernel would be asked network by network
        return torch.vmap(one, in_dims=(0, 0, axis), out_dims=1)(weights, buffers, parts).flatten(1)


def mappable(models: list[nn.Module]) -> str:
    """Why networks of one structure cannot be mapped; empty where they may. A mapped layer is that of one network with
    the weights of another, and has one generator."""
    for layers in zip(*(model.modules() for model in models), strict=True):
        first = layers[0]
        if isinstance(first, Noise) and getattr(first, "p", 1) > 0:
            return f"{type(first).__name__} draws for each network from a generator of its own"
        if first._forward_hooks or first._forward_pre_hooks:
            return f"{type(first).__name__} has hooks"
        if any(_told(layer) != _told(first) for layer in layers):
            return f"{type(first).__name__} has other options in other networks"
    return ""


def _told(layer: nn.Module) -> dict[str, Any]:
    """A layer's options."""
    plain = bool | int | float | str | tuple | None
    return {key: value for key, value in vars(layer).items() if isinstance(value, plain) and key != "training"}


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of a layer, before a parametrization made one of its own below it."""
    kind = type(module)
    return kind.__mro__[1] if nn.utils.parametrize.is_parametrized(module) else kind


def _container(module: nn.Module) -> bool:
    """Whether a module only passes on what its parts give: it has parts, and no weights of its own."""
    return bool(module._modules) and not module._parameters and not module._buffers
