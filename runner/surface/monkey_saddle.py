"""Monkey saddle: three valleys (two legs and a tail) meet at a point with zero gradient and zero curvature."""

from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class MonkeySaddle(Surface):
    """`scale * (x ** 3 - 3 * x * y ** 2 + 3 / 4 * (x ** 2 + y ** 2) ** 2)`.

    In polar coordinates r^3 cos(3 phi) + 3/4 r^4, so each valley has its minimum at r = 1.
    """

    title = "monkey saddle"
    formula = r"x^3 - 3xy^2 + \frac{3}{4}(x^2 + y^2)^2"
    domain = (-1.7, 1.7, -1.3, 1.3)
    minima = ((-1.0, 0.0), (0.5, 0.75**0.5), (0.5, -(0.75**0.5)))
    saddles = ((0.0, 0.0),)
    bend = 1.6

    def __init__(
        self,
        scale: Rate = 0.3,
        unit: Rate = 20.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (1.3, 1e-4),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return x**3 - 3 * x * y**2 + 0.75 * (x**2 + y**2) ** 2
