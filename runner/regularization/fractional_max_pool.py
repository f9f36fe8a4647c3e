"""Fractional max pooling (Graham 2014), with pseudorandom overlapping regions."""

import copy
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from runner.core.context import Context
from runner.core.schema import Positive, Real
from runner.model.noise import Noise
from runner.regularization.base import Item

TICKS = 1 << 24  # float32 draws are whole multiples of 1 / TICKS
Ratio = Literal["auto"] | Annotated[Real, Field(ge=0.5, lt=1)]


class FractionalPooling(Noise):
    """The maximum of `[B, C, H, W]` in windows whose places are drawn: `[B, C, h, w]`, channels last.

    While training each image draws for itself. At test time the draws `regions` `[samples, 2]`, made once, hold for
    all images, and what they give is averaged. Channels share the regions, as in the author's code (SparseConvNet);
    `torch.nn.FractionalMaxPool2d`, otherwise the same, draws for each channel.

    pool: the max pool that is replaced. h and w are what it gives (ratio `auto`), or `floor(ratio * H)`.
    """

    item = "fractional_max_pool"

    def __init__(self, pool: nn.MaxPool2d, ratio: Ratio, samples: int, noise: torch.Generator | None):
        super().__init__(noise)
        self.pool, self.ratio = pool, ratio  # as a child: stages see by it where the resolution falls
        self.register_buffer("regions", fixed(samples, noise))

    def forward(self, x: Tensor) -> Tensor:
        size = self.output_size(x)
        kernel = [window(rows, out) for rows, out in zip(x.shape[2:], size)]
        x = x.contiguous(memory_format=torch.channels_last)
        every = max_pool2d(x, kernel, stride=1)  # the maximum of each window that could be drawn
        if self.active:
            return pick(every, torch.rand(len(x), 2, generator=self.noise, device=x.device), size)
        found = [pick(every, u.expand(len(x), 2), size) for u in self.regions]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def output_size(self, x: Tensor) -> list[int]:
        """Rows and columns that come out."""
        if self.ratio == "auto":
            return [pooled(self.pool, rows, axis) for axis, rows in enumerate(x.shape[2:])]
        return [int(self.ratio * rows) for rows in x.shape[2:]]

    def moves(self, x: Tensor) -> bool:
        """Whether a draw changes a region."""
        sizes = zip(x.shape[2:], self.output_size(x))
        return any(out > 1 and (rows - window(rows, out)) % (out - 1) for rows, out in sizes)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}, samples={len(self.regions)}"


class FractionalMaxPool(Item):
    """Puts fractional pools in the place of max pools.

    ratio: rows that come out of a pool over rows that go in (1 / alpha in the paper, there mostly 0.71 and 0.79);
    `auto` keeps the sizes. samples: draws of regions at test time, averaged; 1: frozen regions.
    """

    def __init__(self, ratio: Ratio = "auto", samples: Positive = 1):
        self.ratio, self.samples = ratio, samples

    def check(self, context: Context) -> str | None:
        name, size = type(context.model).__name__, context.image_size
        if not places(context.model):
            return (
                f"regularization=[fractional_max_pool]: {name} has no max pool to replace; models that have: airbench, "
                "convnet, squeezenet1_1 and, for images above 64 pixels, resnet18 and resnet50"
            )
        moves: list[bool] = []
        with torch.device("meta"), torch.no_grad():
            model, images = copy.deepcopy(context.model).to("meta"), torch.zeros(2, context.in_channels, size, size)
            try:
                model.eval()(images)
            except RuntimeError:  # it cannot be there, or fails without this item too, which the rehearsal will say
                return None
            self.modify(model, None)
            for layer in model.modules():
                if isinstance(layer, FractionalPooling):
                    layer.register_forward_pre_hook(lambda layer, inputs: moves.append(layer.moves(inputs[0])))
            try:
                model.eval()(images)
            except RuntimeError:  # shapes that do not fit
                return (
                    f"regularization.fractional_max_pool.ratio={self.ratio}: the layers of {name} do not fit the sizes "
                    f"that its pools would give for images of {size} pixels; use ratio=auto, or a model that takes any "
                    "size, e.g. model=squeezenet1_1"
                )
        if not any(moves):
            return (
                f"regularization=[fractional_max_pool]: images of {size} pixels leave the pools of {name} no choice of "
                "regions; use larger images or leave it out"
            )
        return None

    def modify(self, model: nn.Module, noise: torch.Generator | None) -> None:
        for path in places(model):
            pool = model.get_submodule(path)
            model.set_submodule(path, FractionalPooling(pool, self.ratio, self.samples, noise))


def places(model: nn.Module) -> list[str]:
    """Dotted names of the max pools that make images smaller."""
    return [
        name
        for name, pool in model.named_modules()
        if isinstance(pool, nn.MaxPool2d) and pool.stride not in (1, (1, 1))
    ]


def pooled(pool: nn.MaxPool2d, rows: int, axis: int) -> int:
    """What a max pool leaves of so many rows (axis 0) or columns (axis 1)."""
    keys = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    kernel, stride, padding, dilation = (key if isinstance(key, int) else key[axis] for key in keys)
    room = rows + 2 * padding - dilation * (kernel - 1) - 1
    if not pool.ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - ((out - 1) * stride >= rows + padding)  # no window begins behind the image


def window(rows: int, out: int) -> int:
    """The smallest window that leaves no row out and, where there is one, whose places are not all given."""
    smallest, steps = -(-rows // out), out - 1
    given = steps > 1 and (rows - smallest) % steps == 0  # all steps are equal
    return smallest + 1 if given and rows - smallest > steps else smallest


def fixed(samples: int, noise: torch.Generator | None) -> Tensor:
    """Draws for testing, `[samples, 2]`; whatever their number, training goes on with the same noise."""
    if noise is None:
        return torch.rand(samples, 2)
    seed = int(torch.randint(2**62, (), generator=noise, device=noise.device))
    own = torch.Generator(noise.device).manual_seed(seed)
    return torch.rand(samples, 2, generator=own, device=noise.device)


def starts(draws: Tensor, last: int, out: int) -> Tensor:
    """First rows of `out` windows, int64 `[B, out]`, from u in `[0, 1)`, float32 `[B, 1]`.

    Window i begins at `floor(a (i + u)) - floor(a u)`, a = last / (out - 1): the first at 0, the last at `last`, and
    the steps between are a rounded down or up, in an order that u decides (the paper, section 2).
    """
    # In whole numbers: where a (i + u) is one, rounding would move a window.
    ticks, whole = (draws * TICKS).long(), max(out - 1, 1) * TICKS
    rows = torch.arange(out, device=draws.device) * TICKS
    return (last * (rows + ticks)) // whole - (last * ticks) // whole


def pick(every: Tensor, draws: Tensor, size: list[int]) -> Tensor:
    """Of all windows `[B, C, H, W]`, channels last, those of the draws u `[B, 2]` for rows and columns."""
    batch, channels, height, width = every.shape
    rows = starts(draws[:, :1], height - 1, size[0])[:, :, None]
    columns = starts(draws[:, 1:], width - 1, size[1])[:, None, :]
    images = torch.arange(batch, device=every.device)[:, None, None]
    pixels = (images * height + rows) * width + columns
    found = every.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, pixels.flatten())
    return found.view(batch, *size, channels).permute(0, 3, 1, 2)
