"""Beale's function (Beale 1958): flat valleys between walls that grow with the sixth power."""

from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class Beale(Surface):
    """`scale * ((1.5 - x + x y) ** 2 + (2.25 - x + x y ** 2) ** 2 + (2.625 - x + x y ** 3) ** 2)`."""

    title = "Beale"
    formula = r"(1.5-x+xy)^2 + (2.25-x+xy^2)^2 + (2.625-x+xy^3)^2"
    domain = (-1.0, 4.2, -1.5, 2.2)
    minima = ((3.0, 0.5),)
    saddles = ((0.0, 1.0),)
    bend = 4.0

    def __init__(
        self,
        scale: Rate = 0.05,
        unit: Rate = 30.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (0.7, 1.5),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2
