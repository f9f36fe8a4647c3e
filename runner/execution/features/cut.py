"""Cut of a network into its frozen part and the rest, which begins with the first stage that trains.

The network is not rebuilt. `compute_features` stops a forward pass at the cut. `Rest` runs the whole network with every
module before the cut replaced by a placeholder output: NaN of the right shape, so that later use of it shows.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


class Uncut(Exception):
    """Raised if a network cannot be cut; its text is the reason."""


@dataclass(frozen=True)
class TensorLayout:
    """Shape and dtype of a tensor, without its batch dimension."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, batch: Tensor) -> "TensorLayout":
        """Return the layout of a batch."""
        return cls(tuple(batch.shape[1:]), batch.dtype)

    def times(self, count: int) -> "TensorLayout":
        """Return the layout with `count` times the channels."""
        return TensorLayout((count * self.shape[0], *self.shape[1:]), self.dtype)

    def empty(self, device: torch.device) -> Tensor:
        """Return a placeholder of shape `[1, 1, ...]`, to be expanded: NaN, or 0 for integers."""
        value = math.nan if self.dtype.is_floating_point else 0
        return torch.full((1,) * (len(self.shape) + 1), value, dtype=self.dtype, device=device)


@dataclass(frozen=True)
class Cut:
    """Position of a cut, by module names; valid for every copy of the network."""

    entry: str  # first module after the cut
    before: tuple[tuple[str, TensorLayout], ...]  # outermost modules that return before the cut, with their outputs
    images: TensorLayout
    features: TensorLayout  # input of `entry`
    strides: tuple[int, ...]  # of its rows, because dropout draws in memory order

    def side_by_side(self, count: int) -> "Cut":
        """Return the cut of `count` networks with concatenated channels."""
        before = tuple((name, layout.times(count)) for name, layout in self.before)
        return replace(self, before=before, images=self.images.times(count))


class _Reached(Exception):
    """Raised to end a forward pass at the cut."""

    def __init__(self, module: nn.Module, features: Tensor):
        super().__init__()
        self.module, self.features = module, features


def _run_to(entries: list[nn.Module], model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Run the network up to the first call of one of `entries`; return that module and its input."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or len(args[0]) != len(images):
            raise Uncut("what comes after the cut does not read one tensor with a row for each image")
        raise _Reached(module, args[0])

    hooks = [entry.register_forward_pre_hook(stop, prepend=True, with_kwargs=True) for entry in entries]
    try:
        model(images)
    except _Reached as reached:
        return reached.module, reached.features
    finally:
        for hook in hooks:
            hook.remove()
    raise Uncut("it does not call what comes after the cut")


def compute_features(model: nn.Module, cut: Cut, images: Tensor) -> Tensor:
    """Return the features of normalized images at the cut."""
    return _run_to([model.get_submodule(cut.entry)], model, images)[1]


@torch.no_grad()
def find_cut(model: nn.Module, entries: list[nn.Module], images: Tensor) -> Cut:
    """Return the cut before the first call of one of `entries`, by a forward pass of at least two images.

    Works on the meta device. Raises `Uncut`.
    """
    names = {module: name for name, module in model.named_modules()}
    outputs: list[tuple[str, Any]] = []  # of the outermost calls that have returned
    open_calls: list[int] = []  # for each call that has not returned: length of `outputs` at its begin

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        open_calls.append(len(outputs))

    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        outputs[open_calls.pop() :] = [(names[module], output)]  # replaces the outputs of its submodules

    hooks = [hook for m in names for hook in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        entry, features = _run_to(entries, model, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(isinstance(output, Tensor) for _, output in outputs):
        raise Uncut("a module of its frozen part answers with more than one tensor")
    before = tuple((name, TensorLayout.of(output)) for name, output in outputs)
    return Cut(
        names[entry],
        before,
        TensorLayout.of(images),
        TensorLayout.of(features),
        torch.empty_like(features).stride()[1:],
    )


def calls_before(model: nn.Module, cut: Cut) -> list[nn.Module]:
    """Return the outermost modules that are called before the cut, in order."""
    return [model.get_submodule(name) for name, _ in cut.before]


class Rest:
    """The network from the cut on: maps features `[B, ...]` to logits `[B, K]`, in the model's current mode."""

    def __init__(self, model: nn.Module, cut: Cut, device: torch.device):
        self.model, self.entry = model, model.get_submodule(cut.entry)
        self.images = cut.images.empty(device), cut.images.shape
        # `forward` of the instance, if set; most modules have only their class's
        self.skipped = {call: vars(call).get("forward") for call in calls_before(model, cut)}
        self.outputs = [(layout.empty(device), layout.shape) for _, layout in cut.before]
        self._last: Tensor | None = None  # the last placeholder output, in its own memory

    def __call__(self, features: Tensor) -> Tensor:
        count = len(features)
        outputs = [empty.expand(count, *shape) for empty, shape in self.outputs]
        if outputs:  # because a function after the last module may work in place
            if self._last is None or len(self._last) < count:
                self._last = outputs[-1].clone()
            outputs[-1] = self._last[:count]
        placeholders = iter(outputs)
        entered = False

        def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
            nonlocal entered
            if entered:  # a repeated call of the module
                return None
            entered = True
            self._restore()  # because a module before the cut may be called again after it
            return (features,)

        for module in self.skipped:
            vars(module)["forward"] = lambda *args, **kwargs: next(placeholders)
        hook = self.entry.register_forward_pre_hook(enter, prepend=True)
        try:
            empty, shape = self.images
            return self.model(empty.expand(count, *shape))
        finally:
            hook.remove()
            self._restore()

    def _restore(self) -> None:
        """Restore `forward` of the modules before the cut."""
        for module, own in self.skipped.items():
            if own is not None:
                vars(module)["forward"] = own
            else:
                vars(module).pop("forward", None)
