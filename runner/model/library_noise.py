"""Replacements for random layers of torch and torchvision that draw from the run's own generator.

torch's layers draw from the global generator, so a run's draws would depend on other runs in the process.
"""

import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from runner.model.drop_path import DropPath
from runner.model.noise import Noise, drop, mask

if TYPE_CHECKING:
    import torchvision

SHARED_AXES = {nn.Dropout: None, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}  # number of axes that share a draw
PER = {"row": "sample", "batch": "batch"}


class SeededDropout(Noise):
    """Counterpart of `nn.Dropout`, and of `Dropout1d`, `2d` and `3d`, which drop whole channels of `[B, C, ...]`."""

    def __init__(self, layer: nn.modules.dropout._DropoutNd, noise: torch.Generator | None):
        super().__init__(noise)
        self.p, self.inplace, self.shared_axes = layer.p, layer.inplace, SHARED_AXES[type(layer)]

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        if self.shared_axes is None and not self.inplace:
            return drop(x, self.p, self.noise)
        kept = mask(self._draws(x), self.p, self.noise)
        return x.mul_(kept) if self.inplace else x * kept

    def _draws(self, x: Tensor) -> Tensor:
        """Return a tensor with one element per draw.

        As in torch, `[C, L]` and `[C, D, H, W]` are single samples, but `Dropout2d` takes three axes as `[B, C, L]`.
        """
        if self.shared_axes is None:
            return x
        axes = 1 if self.shared_axes != 2 and x.ndim == self.shared_axes + 1 else 2
        return x.new_empty((*x.shape[:axes], *(1,) * (x.ndim - axes)))

    def extra_repr(self) -> str:
        text = f"p={self.p}, inplace={self.inplace}"
        return text if self.shared_axes is None else f"{text}, space={self.shared_axes}"


class SeededStochasticDepth(DropPath):
    """Counterpart of `torchvision.ops.StochasticDepth`."""

    item = ""

    def __init__(self, layer: "torchvision.ops.StochasticDepth", noise: torch.Generator | None):
        super().__init__(layer.p, PER[layer.mode], noise)


def replacements() -> dict[type[nn.Module], type[Noise]]:
    """Return the replacement class for each library class."""
    classes: dict[type[nn.Module], type[Noise]] = dict.fromkeys(SHARED_AXES, SeededDropout)
    if "torchvision" in sys.modules:  # else no network has its layers, and the import takes seconds
        from torchvision.ops import StochasticDepth

        classes[StochasticDepth] = SeededStochasticDepth
    return classes


def replace_library_noise(model: nn.Module, noise: torch.Generator | None) -> None:
    """Replace the random layers of torch and torchvision by ones that draw from `noise`, with their names and hooks.

    Layers with p = 0 never draw and stay. So do instances of the user's subclasses of torch's layers.
    """
    classes = replacements()
    replaced: dict[nn.Module, Noise] = {}  # because a layer may be in several places
    for path, module in list(model.named_modules(remove_duplicate=False))[1:]:
        kind = classes.get(type(module))
        if kind is None or module.p == 0:
            continue
        if module not in replaced:
            replaced[module] = kind(module, noise).train(module.training)
            vars(replaced[module]).update({key: value for key, value in vars(module).items() if "hook" in key})
        model.set_submodule(path, replaced[module])
