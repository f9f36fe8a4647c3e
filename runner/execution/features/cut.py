"""A network cut in two where its frozen stages end: what enters the first stage that trains, and the rest from there.

Neither half is rebuilt: `enters` stops a forward pass at the cut, `Rest` runs the whole network with everything before
the cut replaced by empty answers of the right shape. They are NaN, so that a network which needs them later shows it.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


class Uncut(Exception):
    """Why a network cannot be cut, in words."""


@dataclass(frozen=True)
class TensorLayout:
    """A batch's tensor but for the number of its rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, batch: Tensor) -> "TensorLayout":
        return cls(tuple(batch.shape[1:]), batch.dtype)

    def times(self, count: int) -> "TensorLayout":
        """With so many times the channels."""
        return TensorLayout((count * self.shape[0], *self.shape[1:]), self.dtype)

    def empty(self, device: torch.device) -> Tensor:
        """A row without content, to be expanded."""
        value = math.nan if self.dtype.is_floating_point else 0
        return torch.full((1,) * (len(self.shape) + 1), value, dtype=self.dtype, device=device)


@dataclass(frozen=True)
class Cut:
    """Where, by names of modules, so that it holds for every copy of the network."""

    entry: str  # the first module after it
    before: tuple[
        tuple[str, TensorLayout], ...
    ]  # calls that end before it, the outermost ones: module, what it answers
    images: TensorLayout
    features: TensorLayout  # what enters
    strides: tuple[int, ...]  # of its rows: the memory format decides in which order dropout draws

    def side_by_side(self, count: int) -> "Cut":
        """Of so many networks whose activations lie side by side in the channels."""
        before = tuple((name, layout.times(count)) for name, layout in self.before)
        return replace(self, before=before, images=self.images.times(count))


class _Reached(Exception):
    """Ends a forward pass at the cut."""

    def __init__(self, module: nn.Module, given: Tensor):
        super().__init__()
        self.module, self.given = module, given


def _enters(model: nn.Module, images: Tensor, doors: list[nn.Module]) -> tuple[nn.Module, Tensor]:
    """The first of `doors` that is called, and its input."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or len(args[0]) != len(images):
            raise Uncut("what comes after the cut does not read one tensor with a row for each image")
        raise _Reached(module, args[0])

    hooks = [door.register_forward_pre_hook(stop, prepend=True, with_kwargs=True) for door in doors]
    try:
        model(images)
    except _Reached as reached:
        return reached.module, reached.given
    finally:
        for hook in hooks:
            hook.remove()
    raise Uncut("it does not call what comes after the cut")


def enters(model: nn.Module, cut: Cut, images: Tensor) -> Tensor:
    """What crosses the cut, for normalised images."""
    return _enters(model, images, [model.get_submodule(cut.entry)])[1]


@torch.no_grad()
def find(model: nn.Module, doors: list[nn.Module], images: Tensor) -> Cut:
    """The cut before the first of `doors` that is called, from a pass of `images` (at least two; on the meta device,
    too).

    Raises `Uncut`.
    """
    names = {module: name for name, module in model.named_modules()}
    ended: list[tuple[str, Any]] = []
    begun: list[int] = []  # of calls that have not ended: how many had, when they began

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        begun.append(len(ended))

    def end(module: nn.Module, args: tuple[Any, ...], answer: Any) -> None:
        ended[begun.pop() :] = [(names[module], answer)]  # in place of the calls inside of it

    hooks = [hook for m in names for hook in (m.register_forward_pre_hook(begin), m.register_forward_hook(end))]
    try:
        entry, features = _enters(model, images, doors)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(isinstance(answer, Tensor) for _, answer in ended):
        raise Uncut("a module of its frozen part answers with more than one tensor")
    before = tuple((name, TensorLayout.of(answer)) for name, answer in ended)
    return Cut(
        names[entry],
        before,
        TensorLayout.of(images),
        TensorLayout.of(features),
        torch.empty_like(features).stride()[1:],
    )


def calls_before(model: nn.Module, cut: Cut) -> list[nn.Module]:
    """What is called before the cut, in order; parts of what is called not counted."""
    return [model.get_submodule(name) for name, _ in cut.before]


class Rest:
    """The network from the cut on: `features [B, ...] -> logits [B, K]`, in the mode that the model is in."""

    def __init__(self, model: nn.Module, cut: Cut, device: torch.device):
        self.model, self.entry = model, model.get_submodule(cut.entry)
        self.images = cut.images.empty(device), cut.images.shape
        # What stands on the object itself: most modules have their class's `forward` alone.
        self.skipped = {call: vars(call).get("forward") for call in calls_before(model, cut)}
        self.answers = [(layout.empty(device), layout.shape) for _, layout in cut.before]
        self._last: Tensor | None = None  # of the answers, in memory of its own

    def __call__(self, features: Tensor) -> Tensor:
        count = len(features)
        answers = [empty.expand(count, *shape) for empty, shape in self.answers]
        if answers:  # a function that follows may work in place
            if self._last is None or len(self._last) < count:
                self._last = answers[-1].clone()
            answers[-1] = self._last[:count]
        coming = iter(answers)
        entered = False

        def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
            nonlocal entered
            if entered:  # a module may be called again
                return None
            entered = True
            self._speak()  # and one that computes before the cut may do so after it, too
            return (features,)

        for module in self.skipped:
            vars(module)["forward"] = lambda *args, **kwargs: next(coming)
        door = self.entry.register_forward_pre_hook(enter, prepend=True)
        try:
            empty, shape = self.images
            return self.model(empty.expand(count, *shape))
        finally:
            door.remove()
            self._speak()

    def _speak(self) -> None:
        """Lets the modules before the cut compute their own answers again."""
        for module, own in self.skipped.items():
            if own is not None:
                vars(module)["forward"] = own
            else:
                vars(module).pop("forward", None)
