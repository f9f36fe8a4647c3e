"""Saddle between two valleys: negative curvature along y, positive along x."""

from torch import Tensor

from runner.core.schema import NonNegative, Rate
from runner.surface.base import Surface


class Saddle(Surface):
    """`scale * (x ** 2 / 2 - y ** 2 / 2 + y ** 4 / 4)`: the saddle x^2 - y^2 with two minima.

    On the ridge y = 0 the gradient has no component along y: without noise, descent that starts there stays there.
    """

    title = "saddle"
    formula = r"\frac{1}{2}x^2 - \frac{1}{2}y^2 + \frac{1}{4}y^4"
    domain = (-2.2, 1.8, -1.5, 1.5)
    minima = ((0.0, 1.0), (0.0, -1.0))
    saddles = ((0.0, 0.0),)
    bend = 1.4

    def __init__(
        self,
        scale: Rate = 0.3,
        unit: Rate = 20.0,
        noise: NonNegative = 0.0,
        start: tuple[float, float] = (-2.0, 1e-5),
    ):
        super().__init__(scale, unit, noise, start)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        return x**2 / 2 - y**2 / 2 + y**4 / 4
