"""Plateau with one hole. Far from it the gradient vanishes, and so do steps proportional to the gradient."""

import torch
from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class Plateau(Surface):
    """`scale * (1 - exp(-(x ** 2 + y ** 2) / 2))`."""

    title = "plateau"
    formula = r"1 - e^{-(x^2+y^2)/2}"
    domain = (-3.8, 2.2, -2.0, 2.4)
    minima = ((0.0, 0.0),)
    bend = 1.0

    def __init__(
        self,
        scale: Rate = 1.0,
        unit: Rate = 30.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (-3.0, 1.4),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return 1 - torch.exp(-(x**2 + y**2) / 2)
