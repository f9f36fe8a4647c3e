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
    """Max pool over windows at random positions: `[B, C, H, W]` to `[B, C, h, w]`, channels last.

    While training, the windows are drawn per image. At test time the fixed draws `regions` `[samples, 2]` are used for
    all images, and their outputs are averaged. Channels share the windows, as in the author's code (SparseConvNet).
    `torch.nn.FractionalMaxPool2d` is otherwise the same, but draws per channel.

    pool: the max pool to replace. h and w are its output sizes (ratio `auto`), or `floor(ratio * H)`.
    """

    item = "fractional_max_pool"

    def __init__(self, pool: nn.MaxPool2d, ratio: Ratio, samples: int, noise: torch.Generator | None):
        super().__init__(noise)
        self.pool, self.ratio = pool, ratio  # a child module, so that `stages` sees the change of resolution
        self.register_buffer("regions", fixed(samples, noise))

    def forward(self, x: Tensor) -> Tensor:
        size = self.output_size(x)
        kernel = [window(rows, out) for rows, out in zip(x.shape[2:], size)]
        x = x.contiguous(memory_format=torch.channels_last)
        maxima = max_pool2d(x, kernel, stride=1)  # of every possible window
        if self.active:
            return pick(maxima, torch.rand(len(x), 2, generator=self.noise, device=x.device), size)
        outputs = [pick(maxima, u.expand(len(x), 2), size) for u in self.regions]
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0)

    def output_size(self, x: Tensor) -> list[int]:
        """Return the numbers of output rows and columns."""
        if self.ratio == "auto":
            return [pooled(self.pool, rows, axis) for axis, rows in enumerate(x.shape[2:])]
        return [int(self.ratio * rows) for rows in x.shape[2:]]

    def moves(self, x: Tensor) -> bool:
        """Return whether the draws change any window."""
        sizes = zip(x.shape[2:], self.output_size(x))
        return any(out > 1 and (rows - window(rows, out)) % (out - 1) for rows, out in sizes)

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}, samples={len(self.regions)}"


class FractionalMaxPool(Item):
    """Fractional max pools in place of the model's max pools.

    ratio: output rows / input rows of a pool (1 / alpha in the paper, mostly 0.71 and 0.79 there); `auto` keeps the
    output sizes.
    samples: number of fixed draws of the regions that are averaged at test time.
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
            except RuntimeError:  # it fails without this item too, or cannot run on meta; the preflight reports that
                return None
            self.modify(model, None)
            for layer in model.modules():
                if isinstance(layer, FractionalPooling):
                    layer.register_forward_pre_hook(lambda layer, inputs: moves.append(layer.moves(inputs[0])))
            try:
                model.eval()(images)
            except RuntimeError:  # sizes that do not fit
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
    """Return the dotted names of the max pools that reduce the resolution."""
    return [
        name
        for name, pool in model.named_modules()
        if isinstance(pool, nn.MaxPool2d) and pool.stride not in (1, (1, 1))
    ]


def pooled(pool: nn.MaxPool2d, rows: int, axis: int) -> int:
    """Return a max pool's number of output rows (axis 0) or columns (axis 1)."""
    keys = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    kernel, stride, padding, dilation = (key if isinstance(key, int) else key[axis] for key in keys)
    room = rows + 2 * padding - dilation * (kernel - 1) - 1
    if not pool.ceil_mode:
        return room // stride + 1
    out = -(-room // stride) + 1
    return out - ((out - 1) * stride >= rows + padding)  # no window starts beyond the image


def window(rows: int, out: int) -> int:
    """Return the smallest window size that covers all rows and, if possible, leaves the positions some freedom."""
    smallest, steps = -(-rows // out), out - 1
    is_fixed = steps > 1 and (rows - smallest) % steps == 0  # all steps are equal
    return smallest + 1 if is_fixed and rows - smallest > steps else smallest


def fixed(samples: int, noise: torch.Generator | None) -> Tensor:
    """Return the draws for test time, `[samples, 2]`. Their number does not change the draws of training."""
    if noise is None:
        return torch.rand(samples, 2)
    seed = int(torch.randint(2**62, (), generator=noise, device=noise.device))
    generator = torch.Generator(noise.device).manual_seed(seed)
    return torch.rand(samples, 2, generator=generator, device=noise.device)


def starts(draws: Tensor, last: int, out: int) -> Tensor:
    """Return the first rows of `out` windows, int64 `[B, out]`, from u in `[0, 1)`, float32 `[B, 1]`.

    Window i starts at `floor(a (i + u)) - floor(a u)` with a = last / (out - 1): the first at 0, the last at `last`.
    Each step between them is a rounded down or up; u determines the order (the paper, section 2).
    """
    # In integers, because float rounding would move a window where a (i + u) is an integer.
    ticks, denominator = (draws * TICKS).long(), max(out - 1, 1) * TICKS
    rows = torch.arange(out, device=draws.device) * TICKS
    return (last * (rows + ticks)) // denominator - (last * ticks) // denominator


def pick(maxima: Tensor, draws: Tensor, size: list[int]) -> Tensor:
    """Select the windows of the draws u `[B, 2]` (rows, columns) from all windows' maxima `[B, C, H, W]`."""
    batch, channels, height, width = maxima.shape
    rows = starts(draws[:, :1], height - 1, size[0])[:, :, None]
    columns = starts(draws[:, 1:], width - 1, size[1])[:, None, :]
    images = torch.arange(batch, device=maxima.device)[:, None, None]
    pixels = (images * height + rows) * width + columns
    selected = maxima.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, pixels.flatten())
    return selected.view(batch, *size, channels).permute(0, 3, 1, 2)
