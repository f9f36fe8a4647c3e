"""Rosenbrock's curved valley (Rosenbrock 1960): easy to find, slow to follow."""

from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class Rosenbrock(Surface):
    """`scale * ((1 - x) ** 2 + 100 * (y - x ** 2) ** 2)`."""

    title = "Rosenbrock"
    formula = r"(1-x)^2 + 100\,(y-x^2)^2"
    domain = (-2.0, 2.0, -0.8, 2.4)
    minima = ((1.0, 1.0),)
    bend = 4.0

    def __init__(
        self,
        scale: Rate = 0.01,
        unit: Rate = 30.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (-1.2, 1.0),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2
