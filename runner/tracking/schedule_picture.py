"""Picture of a learning-rate schedule, drawn by Pillow in milliseconds before training."""

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runner.core.timeline import Timeline

INK, SOFT, LINE, BLUE = (33, 37, 41), (90, 98, 106), (222, 226, 230), (0, 114, 178)
FINE = 2  # supersampling: the picture is drawn at this multiple of its size, then reduced
MOST_POINTS = 4000  # in the line; the steps of a longer run are subsampled


def draw(
    multiplier: Callable[[int], float], line: Timeline, rate: float, width: int = 760, height: int = 400
) -> np.ndarray:
    """Plot the learning rate (`rate` times the multiplier of each step) over the epochs: uint8 [height, width, 3]."""
    steps = np.unique(np.linspace(0, line.steps - 1, min(line.steps, MOST_POINTS)).round().astype(int))
    rates = tuple(rate * multiplier(int(step)) for step in steps)
    return _drawn(rates, tuple(steps / line.steps_per_epoch), line, width, height)


@functools.lru_cache(maxsize=64)  # because most runs of a sweep have the same schedule
def _drawn(rates: tuple[float, ...], epochs: tuple[float, ...], line: Timeline, width: int, height: int) -> np.ndarray:
    rate_ticks, epoch_ticks = ticks(max(rates)), ticks(line.steps / line.steps_per_epoch)
    picture = Image.new("RGB", (width * FINE, height * FINE), (255, 255, 255))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14 * FINE)
    left, bottom, wide, high = 88 * FINE, (height - 56) * FINE, (width - 118) * FINE, (height - 106) * FINE

    def x(epoch: float) -> float:
        return left + wide * epoch / (line.steps / line.steps_per_epoch)

    def y(value: float) -> float:
        return bottom - high * value / rate_ticks[-1]

    for value in rate_ticks:
        pen.line((left, y(value), left + wide, y(value)), LINE, FINE)
        pen.text((left - 8 * FINE, y(value)), f"{value:g}", SOFT, font, anchor="rm")
    for epoch in epoch_ticks:
        if x(epoch) <= left + wide:
            pen.line((x(epoch), bottom, x(epoch), bottom + 5 * FINE), SOFT, FINE)
            pen.text((x(epoch), bottom + 8 * FINE), f"{epoch:g}", SOFT, font, anchor="ma")
    pen.line((left, bottom, left + wide, bottom), SOFT, FINE)
    pen.text((left + wide / 2, (height - 8) * FINE), "epoch", INK, font, anchor="md")
    pen.text((left, 14 * FINE), "learning rate", INK, ImageFont.load_default(17 * FINE), anchor="la")
    pen.line([(x(e), y(r)) for e, r in zip(epochs, rates)], BLUE, 3 * FINE, joint="curve")
    if len(rates) == 1:
        pen.ellipse((x(0) - 6, y(rates[0]) - 6, x(0) + 6, y(rates[0]) + 6), BLUE)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def ticks(most: float) -> list[float]:
    """Return four to eight round, evenly spaced numbers from 0 to at least `most`."""
    unit = 10 ** math.floor(math.log10(most / 4)) if most > 0 else 0.25
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor * 6 >= most)
    return [round(step * i, 12) for i in range(math.ceil(most / step - 1e-9) + 1)]
