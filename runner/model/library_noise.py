"""The noise that a network brings from torch or torchvision, drawn from its run's own generator.

torch's layers draw from the process's one generator: what a run gets would depend on what else the process trains.
"""

import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from runner.model.drop_path import DropPath
from runner.model.noise import Noise, drop, mask

if TYPE_CHECKING:
    import torchvision

SPACE = {nn.Dropout: None, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}  # axes whose numbers share a draw
PER = {"row": "sample", "batch": "batch"}


class SeededDropout(Noise):
    """`torch.nn.Dropout`, or `Dropout1d`, `2d` and `3d`, which drop whole channels of `[B, C, ...]`."""

    def __init__(self, of: nn.modules.dropout._DropoutNd, noise: torch.Generator | None):
        super().__init__(noise)
        self.p, self.inplace, self.space = of.p, of.inplace, SPACE[type(of)]

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        if self.space is None and not self.inplace:
            return drop(x, self.p, self.noise)
        drawn = mask(self._draws(x), self.p, self.noise)
        return x.mul_(drawn) if self.inplace else x * drawn

    def _draws(self, x: Tensor) -> Tensor:
        """A tensor with a number for each draw. As in torch, `[C, L]` and `[C, D, H, W]` are single samples, while
        three axes are `[B, C, L]` to `Dropout2d`."""
        if self.space is None:
            return x
        axes = 1 if self.space != 2 and x.ndim == self.space + 1 else 2
        return x.new_empty((*x.shape[:axes], *(1,) * (x.ndim - axes)))

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}" + ("" if self.space is None else f", space={self.space}")


class SeededStochasticDepth(DropPath):
    """`torchvision.ops.StochasticDepth`."""

    item = ""

    def __init__(self, of: "torchvision.ops.StochasticDepth", noise: torch.Generator | None):
        super().__init__(of.p, PER[of.mode], noise)


def kinds() -> dict[type[nn.Module], type[Noise]]:
    """Layer of a library -> ours. Where torchvision is not loaded no network has its layer, and to load it takes
    seconds."""
    found: dict[type[nn.Module], type[Noise]] = dict.fromkeys(SPACE, SeededDropout)
    if "torchvision" in sys.modules:
        from torchvision.ops import StochasticDepth as OfTorchvision

        found[OfTorchvision] = SeededStochasticDepth
    return found


def own(model: nn.Module, noise: torch.Generator | None) -> None:
    """Puts layers that draw from `noise` in the place of torch's, under their names and with their hooks.

    Layers of p = 0, which never draw, stay; so do those of a user's own class derived from torch's.
    """
    known = kinds()
    made: dict[nn.Module, Noise] = {}  # one layer may stand in several places
    for path, module in list(model.named_modules(remove_duplicate=False))[1:]:
        kind = known.get(type(module))
        if kind is None or module.p == 0:
            continue
        if module not in made:
            made[module] = kind(module, noise).train(module.training)
            vars(made[module]).update({key: value for key, value in vars(module).items() if "hook" in key})
        model.set_submodule(path, made[module])
