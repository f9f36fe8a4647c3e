"""What a surface is: a function of the plane with what is known of it."""

from typing import ClassVar

import torch
from torch import Tensor

from runner.core.errors import ConfigError
from runner.core.schema import NonNegative, Rate

Point = tuple[float, float]


class Surface:
    """`surface(x) -> f(x)` for `x[0]`, `x[1]` of any shape (a point, or the grid of a picture), in their precision.

    scale: multiplies the function, and so its gradient and all its curvatures.
    unit: how long one unit of the optimizer's weights is in the plane. The optimizer moves w, the point is unit * w,
        and the loss is divided by unit ** 2: gradient descent, momentum and Newton's method do not feel it (they take
        in the plane the steps that the textbook gives for f); a method whose steps have the size of its rate whatever
        the gradient (Adam at 0.001) takes steps of unit times that size.
    noise: standard deviation of the gaussian noise on each component of the gradient of f.
    start: where the optimizer begins.
    """

    title: ClassVar[str]
    formula: str  # as matplotlib's mathtext, without `scale`
    domain: ClassVar[tuple[float, float, float, float]]  # of the picture: left, right, bottom, top
    minima: ClassVar[tuple[Point, ...]]  # every point where the function is lowest
    saddles: ClassVar[tuple[Point, ...]] = ()  # flat, but neither a minimum nor a maximum
    bend: ClassVar[float] = 2.0  # contour lines at minimum + range * t ** bend, t in equal steps

    def __init__(self, scale: Rate, unit: Rate, noise: NonNegative, start: tuple[float, float]):
        self.scale, self.unit, self.noise, self.start = scale, unit, noise, (float(start[0]), float(start[1]))
        left, right, bottom, top = self.domain
        if not (left <= self.start[0] <= right and bottom <= self.start[1] <= top):
            raise ConfigError(
                f"surface.start=[{start[0]},{start[1]}]: outside the picture, x from {left:g} to {right:g} and "
                f"y from {bottom:g} to {top:g}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """The function's values, in the shape of `x[0]`."""
        return self.scale * self.height(x[0], x[1])

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """The function without its scale."""
        raise NotImplementedError

    @property
    def minimum(self) -> float:
        """The function's lowest value."""
        return float(self(torch.tensor(self.minima[0], dtype=torch.float64)))

    def grid(self, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
        """`x [W]`, `y [H]` and the values `[H, W]` over the domain, in float64."""
        left, right, bottom, top = self.domain
        x = torch.linspace(left, right, width, dtype=torch.float64)
        y = torch.linspace(bottom, top, height, dtype=torch.float64)
        return x, y, self(torch.stack(torch.meshgrid(x, y, indexing="xy")))
