"""Random layers: what every source of noise in a network shares, whichever option put it there."""

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

# What draws from torch's global generator, where `runner.model.library_noise` has no counterpart: alpha dropout,
# dropout of a user's own making, RReLU while they train, the pools always.
LIBRARY = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)
WIDTHS = (torch.int8, torch.int16, torch.int32)
CHUNK = 1 << 18  # numbers at a time, whose bits stay in the processor's cache
FEW = 1 << 10  # numbers, below which bits would cost more than they save


class Noise(nn.Module):
    """A layer that draws while it trains, and at test time while `sampling` is on.

    `item` names what puts such layers into networks, of `regularization`; none where a network brings them itself.
    `noise` is a generator on the layer's device; None draws from torch's own (rehearsals on the meta device).
    """

    item: ClassVar[str] = ""

    def __init__(self, noise: torch.Generator | None):
        super().__init__()
        self.noise, self.sampling = noise, False

    @property
    def active(self) -> bool:
        """Whether a forward pass draws now."""
        return self.training or self.sampling


def mask(like: Tensor, p: float, noise: torch.Generator | None, scaled: bool = True) -> Tensor:
    """A tensor of `like`'s shape, type and memory format: each number is zero with probability p, else one or, scaled,
    `1 / (1 - p)`, which makes the mean one.

    Many numbers on the CPU are raw bits, compared, in a tenth of the time of torch's `bernoulli_`. There `1 - p` is
    drawn exactly where 8 or 16 bits can say it (a half, a quarter, ...), else as the nearest whole multiple of 2^-32,
    though never as zero.
    """
    keep = 1 - p
    if p in (0, 1):
        return torch.full_like(like, keep)
    found, share = torch.empty_like(like), keep if scaled else 1.0
    if found.device.type != "cpu" or found.numel() < FEW:
        found.bernoulli_(keep, generator=noise).div_(share)
    else:
        kind = next((kind for kind in WIDTHS if (keep * 2 ** torch.iinfo(kind).bits).is_integer()), WIDTHS[-1])
        for part in found.as_strided((found.numel(),), (1,)).split(CHUNK):
            part.copy_(_kept(len(part), keep, kind, noise)).div_(share)
    return found


def drop(x: Tensor, p: float, noise: torch.Generator | None, scaled: bool = True) -> Tensor:
    """x times its `mask`."""
    drawn = mask(x, p, noise, scaled)
    # In the mask's memory where no gradient needs it: new pages cost several times the product.
    return x * drawn if x.requires_grad else drawn.mul_(x)


def _kept(count: int, keep: float, kind: torch.dtype, noise: torch.Generator | None) -> Tensor:
    """So many integers of a kind: ones with probability `keep`, else zeros."""
    bits, lowest = torch.iinfo(kind).bits, torch.iinfo(kind).min
    words = torch.empty(-(-count * bits // 64), dtype=torch.int64, device="cpu")
    words.random_(torch.iinfo(torch.int64).min, None, generator=noise)  # without bounds the sign would never be set
    return words.view(kind)[:count].le_(lowest + max(round(keep * 2**bits), 1) - 1)


def noisy(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that draw. Many a library model carries dropout with p = 0: that does not."""
    return [
        module
        for module in model.modules()
        if isinstance(module, Noise) or (isinstance(module, LIBRARY) and getattr(module, "p", 1) > 0)
    ]


@contextlib.contextmanager
def sampled(model: nn.Module, draws: torch.Generator) -> Iterator[None]:
    """Inside, a model in evaluation mode draws its noise, from `draws`; norms keep to their running statistics.

    Layers of libraries draw from torch's global generator, which is seeded from `draws` and put back afterwards.
    """
    layers = noisy(model)
    own = [(layer, layer.noise, layer.sampling) for layer in layers if isinstance(layer, Noise)]
    others = [(layer, layer.training) for layer in layers if not isinstance(layer, Noise)]
    devices = [draws.device] if draws.device.type == "cuda" else []
    try:
        for layer, _, _ in own:
            layer.noise, layer.sampling = draws, True
        for layer, _ in others:
            layer.train()
        with torch.random.fork_rng(devices, enabled=bool(others)):
            if others:
                torch.manual_seed(int(torch.randint(2**62, (), generator=draws, device=draws.device)))
            yield
    finally:
        for layer, noise, sampling in own:
            layer.noise, layer.sampling = noise, sampling
        for layer, training in others:
            layer.train(training)
