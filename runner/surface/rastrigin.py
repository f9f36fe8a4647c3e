"""Rastrigin's function (Rastrigin 1974): a bowl with many local minima and one global minimum."""

import math

import torch
from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


def stationary_point(near: float) -> float:
    """Return the stationary point of t ** 2 - 10 cos(2 pi t) near a multiple of 1/2, by Newton's method."""
    t = near
    for _ in range(20):
        slope = 2 * t + 20 * math.pi * math.sin(2 * math.pi * t)
        t -= slope / (2 + 40 * math.pi**2 * math.cos(2 * math.pi * t))
    return t


class Rastrigin(Surface):
    """`scale * (20 + x ** 2 + y ** 2 - 10 * cos(2 pi x) - 10 * cos(2 pi y))`.

    It is the sum of the same function of x and of y, so a saddle is a minimum in one and a maximum in the other.
    """

    title = "Rastrigin"
    formula = r"20 + x^2 + y^2 - 10\cos 2\pi x - 10\cos 2\pi y"
    domain = (-3.2, 3.2, -2.5, 2.5)
    minima = ((0.0, 0.0),)
    saddles = tuple(
        point
        for hole in range(-3, 4)
        for hill in range(-3, 3)
        for point in (
            (stationary_point(hole), stationary_point(hill + 0.5)),
            (stationary_point(hill + 0.5), stationary_point(hole)),
        )
    )
    bend = 1.0

    def __init__(
        self,
        scale: Rate = 0.04,
        unit: Rate = 30.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (-1.4, 1.65),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        waves = torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y)
        return 20 + x**2 + y**2 - 10 * waves
