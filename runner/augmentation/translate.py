"""Random shift by whole pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from runner.augmentation.base import Transform
from runner.augmentation.crop import crop
from runner.augmentation.draws import Level
from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.schema import Fraction
from runner.core.text import shown


def translate(images: Tensor, shifts: Tensor, max_shift: tuple[int, int], fill: float = 0) -> Tensor:
    """Shift each of the square `images [B, C, S, S]` by its own `shifts [B, 2]`: whole pixels right and down.

    `max_shift`: the largest |shift|, right and down. The uncovered border is `fill` (0..255).
    """
    right, down = max_shift
    fill = fill if images.dtype == torch.uint8 else fill / 255
    padded = pad(images, (right, right, down, down), value=fill)
    return crop(padded, down - shifts[:, 1], right - shifts[:, 0], images.shape[-1])


def check_fractions(key: str, values: Sequence[float]) -> tuple[float, float]:
    """Return the fractions of the width and of the height. Raises ConfigError unless they are two."""
    if len(values) != 2:
        raise ConfigError(f"{key}={shown(values)}: must be two fractions of the side, [X,Y]")
    return values[0], values[1]


def max_shifts(fractions: tuple[float, float], width: int, height: int) -> tuple[int, int]:
    """Return the largest shift in pixels, right and down."""
    return round(fractions[0] * width), round(fractions[1] * height)


def draw_shifts(count: int, max_shift: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw shifts [count, 2] right and down, integers uniform in -max_shift..max_shift."""
    axes = [torch.randint(-m, m + 1, (count,), generator=generator, device=device) for m in max_shift]
    return torch.stack(axes, 1)


class Translate(Transform):
    """Uniform random shift. translate: the largest shift in x and in y, as fractions of the side."""

    def __init__(self, translate: Sequence[Fraction] = [0.1, 0.1], fill: Level = 0):
        self.translate, self.fill = check_fractions("augmentation.translate.translate", translate), fill

    def check(self, context: Context) -> str | None:
        side = context.image_size
        if any(self.translate) and not any(max_shifts(self.translate, side, side)):
            return (
                f"augmentation.translate.translate={shown(self.translate)}: nothing moves by half a pixel or more; "
                f"{1 / side:.2g} is one pixel of {side}"
            )
        return None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        max_shift = max_shifts(self.translate, images.shape[-1], images.shape[-2])
        return translate(images, draw_shifts(len(images), max_shift, generator, images.device), max_shift, self.fill)
