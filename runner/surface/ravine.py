"""Ravine: a long, narrow quadratic valley. Only the condition number decides how hard it is."""

from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class Ravine(Surface):
    """`scale / 2 * (x ** 2 / condition + y ** 2)`: curvature `scale` across, `scale / condition` along."""

    title = "ravine"
    domain = (-5.0, 1.5, -2.0, 2.0)
    minima = ((0.0, 0.0),)

    def __init__(
        self,
        condition: Rate = 100.0,
        scale: Rate = 19.5,
        unit: Rate = 30.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (-4.5, 1.5),
    ):
        super().__init__(scale, unit, noise, start)
        self.condition = condition
        self.formula = rf"(x^2 / {condition:g} + y^2)\,/\,2"

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return (x**2 / self.condition + y**2) / 2
