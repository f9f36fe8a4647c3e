"""Random layers: their base class, masks, and the context that samples them at test time."""

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

# Layers that draw from torch's global generator and have no replacement in `runner.model.library_noise`: alpha dropout,
# the user's own dropouts and RReLU draw while training, the pools always.
LIBRARY = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)
WIDTHS = (torch.int8, torch.int16, torch.int32)
CHUNK = 1 << 18  # elements at a time, so that their bits stay in the CPU's cache
FEW = 1 << 10  # below so many elements, `bernoulli_` is faster than raw bits


class Noise(nn.Module):
    """Layer that draws random numbers while training, and at test time while `sampling` is on.

    `item`: the regularization item that inserts the layer; empty if it is part of the network.
    `noise`: a generator on the layer's device; None for torch's global one (for the preflight on the meta device).
    """

    item: ClassVar[str] = ""

    def __init__(self, noise: torch.Generator | None):
        super().__init__()
        self.noise, self.sampling = noise, False

    @property
    def active(self) -> bool:
        """Return whether a forward pass draws."""
        return self.training or self.sampling


def mask(like: Tensor, p: float, noise: torch.Generator | None, scaled: bool = True) -> Tensor:
    """Draw a mask with `like`'s shape, type and memory format: 0 with probability p, else 1 or, if scaled, 1 / (1 - p).

    Scaling makes the mean 1. On the CPU, large masks compare raw random bits, in a tenth of the time of torch's
    `bernoulli_`. There `1 - p` is exact if 8 or 16 bits can represent it (a half, a quarter, ...). Else it is rounded
    to a multiple of 2^-32, but never to zero.
    """
    keep = 1 - p
    if p in (0, 1):
        return torch.full_like(like, keep)
    result, divisor = torch.empty_like(like), keep if scaled else 1.0
    if result.device.type != "cpu" or result.numel() < FEW:
        result.bernoulli_(keep, generator=noise).div_(divisor)
    else:
        kind = next((kind for kind in WIDTHS if (keep * 2 ** torch.iinfo(kind).bits).is_integer()), WIDTHS[-1])
        for part in result.as_strided((result.numel(),), (1,)).split(CHUNK):
            part.copy_(_kept(len(part), keep, kind, noise)).div_(divisor)
    return result


def drop(x: Tensor, p: float, noise: torch.Generator | None, scaled: bool = True) -> Tensor:
    """Return x times a random `mask`."""
    kept = mask(x, p, noise, scaled)
    # In the mask's memory unless the gradient needs it, because new memory pages cost several times the product.
    return x * kept if x.requires_grad else kept.mul_(x)


def _kept(count: int, keep: float, kind: torch.dtype, noise: torch.Generator | None) -> Tensor:
    """Draw `count` integers of a type: 1 with probability `keep`, else 0."""
    bits, lowest = torch.iinfo(kind).bits, torch.iinfo(kind).min
    words = torch.empty(-(-count * bits // 64), dtype=torch.int64, device="cpu")
    # With bounds, because without them the sign bit is never set.
    words.random_(torch.iinfo(torch.int64).min, None, generator=noise)
    return words.view(kind)[:count].le_(lowest + max(round(keep * 2**bits), 1) - 1)


def noisy(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model that draw, without library dropouts of p = 0."""
    return [
        module
        for module in model.modules()
        if isinstance(module, Noise) or (isinstance(module, LIBRARY) and getattr(module, "p", 1) > 0)
    ]


@contextlib.contextmanager
def sampled(model: nn.Module, draws: torch.Generator) -> Iterator[None]:
    """Draw a model's noise from `draws` inside the context, in evaluation mode: norms use running statistics.

    Library layers draw from torch's global generator, which is seeded from `draws` and restored afterwards.
    """
    layers = noisy(model)
    noise_layers = [(layer, layer.noise, layer.sampling) for layer in layers if isinstance(layer, Noise)]
    library_layers = [(layer, layer.training) for layer in layers if not isinstance(layer, Noise)]
    devices = [draws.device] if draws.device.type == "cuda" else []
    try:
        for layer, _, _ in noise_layers:
            layer.noise, layer.sampling = draws, True
        for layer, _ in library_layers:
            layer.train()
        with torch.random.fork_rng(devices, enabled=bool(library_layers)):
            if library_layers:
                torch.manual_seed(int(torch.randint(2**62, (), generator=draws, device=draws.device)))
            yield
    finally:
        for layer, noise, sampling in noise_layers:
            layer.noise, layer.sampling = noise, sampling
        for layer, training in library_layers:
            layer.train(training)
