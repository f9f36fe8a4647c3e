"""Base class of surfaces: test functions of two variables with their known minima and saddles."""

from typing import ClassVar

import torch
from torch import Tensor

from runner.core.errors import ConfigError
from runner.core.schema import NonNegative, Rate

Point = tuple[float, float]


class Surface:
    """Test function `surface(x) -> f(x)` for `x[0]`, `x[1]` of any shape (a point or a grid), in their precision.

    scale: multiplies the function, and so its gradient and curvatures.
    unit: length in the plane of one unit of the optimizer's weights w. The point is unit * w, and the loss is divided
        by unit ** 2. So gradient descent, momentum and Newton's method make the textbook steps for f in the plane. A
        method with steps of the size of its rate for any gradient (Adam at 0.001) makes steps of unit times that size.
    noise: standard deviation of the Gaussian noise on each component of the gradient of f.
    start: the optimizer's starting point.
    """

    title: ClassVar[str]
    formula: str  # in matplotlib's mathtext, without `scale`
    domain: ClassVar[tuple[float, float, float, float]]  # of the plot: left, right, bottom, top
    minima: ClassVar[tuple[Point, ...]]  # all global minima
    saddles: ClassVar[tuple[Point, ...]] = ()  # stationary points, neither minima nor maxima
    bend: ClassVar[float] = 2.0  # contour lines at minimum + range * t ** bend, with t in equal steps

    def __init__(self, scale: Rate, unit: Rate, noise: NonNegative, start: tuple[float, float]):
        self.scale, self.unit, self.noise, self.start = scale, unit, noise, (float(start[0]), float(start[1]))
        left, right, bottom, top = self.domain
        if not (left <= self.start[0] <= right and bottom <= self.start[1] <= top):
            raise ConfigError(
                f"surface.start=[{start[0]},{start[1]}]: outside the picture, x from {left:g} to {right:g} and "
                f"y from {bottom:g} to {top:g}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return the function's values, in the shape of `x[0]`."""
        return self.scale * self.height(x[0], x[1])

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the function's values without the scale."""
        raise NotImplementedError

    @property
    def minimum(self) -> float:
        """Return the function's minimum."""
        return float(self(torch.tensor(self.minima[0], dtype=torch.float64)))

    def grid(self, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return `x [W]`, `y [H]` and the values `[H, W]` over the domain, in float64."""
        left, right, bottom, top = self.domain
        x = torch.linspace(left, right, width, dtype=torch.float64)
        y = torch.linspace(bottom, top, height, dtype=torch.float64)
        return x, y, self(torch.stack(torch.meshgrid(x, y, indexing="xy")))
