"""Himmelblau's function (Himmelblau 1972): four minima of the same depth. The path decides which one is reached."""

from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class Himmelblau(Surface):
    """`scale * ((x ** 2 + y - 11) ** 2 + (x + y ** 2 - 7) ** 2)`."""

    title = "Himmelblau"
    formula = r"(x^2+y-11)^2 + (x+y^2-7)^2"
    domain = (-6.0, 6.0, -5.0, 5.0)
    minima = (
        (3.0, 2.0),
        (-2.805118086952745, 3.131312518250573),
        (-3.779310253377747, -3.283185991286170),
        (3.584428340330492, -1.848126526964404),
    )
    saddles = (
        (-3.073025750764160, -0.081353042799045),
        (-0.127961346737490, -1.953714980272905),
        (0.086677504555425, 2.884254700616130),
        (3.385154183607253, 0.073851879837950),
    )
    bend = 3.0

    def __init__(
        self,
        scale: Rate = 0.1,
        unit: Rate = 30.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (0.0, -0.5),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2
