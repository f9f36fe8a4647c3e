"""Trajectory of an optimizer on a surface, step by step, and its verdict."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from runner.surface.base import Surface

COLUMNS = ("step", "x", "y", "loss", "gradient_norm", "rate", "step_length", "evaluations")
VERDICTS = ("converged", "oscillates", "stuck at the saddle", "diverged", "not converged")
LOST = 10.0  # diagonals of the plot: a point farther from its center has diverged
NEAR = 0.05  # of the plot's width: a point nearer to a saddle is at the saddle
WINDOW = 0.25  # last share of the trajectory, which decides between "stuck" and "oscillates"
STRAIGHT = 0.5  # displacement / path length: below it the point goes back and forth
SEEN = 0.001  # of the plot's width: a shorter path is at rest
LASTING = 0.5  # path length in the second half of the window / in the first: below it the oscillation dies out

Row = dict[str, Any]


class SurfaceObjective:
    """Loss of one step on a surface, as a `runner.optimizer.flat_params.LossClosure`.

    The point is `unit * weights`. Noise is one draw per step: a plane added to the surface, whose gradient is the draw.
    Like a mini-batch's loss, it is the same for all evaluations of a step. As in training, the gradient is computed
    when the step begins, and the first call returns that loss.
    """

    def __init__(self, surface: Surface, weights: Tensor, draw: Tensor):
        self.surface, self.weights, self.draw = surface, weights, draw
        self.origin = surface.unit * weights.detach().clone()
        self.evaluations = 0
        self._ready = [self._gradient()]

    def loss(self) -> Tensor:
        """Return the loss with its graph."""
        self.evaluations += 1
        point = self.surface.unit * self.weights
        return (self.surface(point) + self.draw @ (point - self.origin)) / self.surface.unit**2

    def __call__(self) -> Tensor:
        """Return the loss and set the weights' `grad`."""
        return self._ready.pop() if self._ready else self._gradient()

    @torch.enable_grad()
    def _gradient(self) -> Tensor:
        self.weights.grad = None
        loss = self.loss()
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def value(self) -> Tensor:
        """Return the loss without gradients, for line searches."""
        return self.loss()

    def pieces(self) -> Iterator[Tensor]:
        """Yield the loss with its graph as one piece, for second derivatives."""
        yield self.loss()


@dataclass
class Walk:
    """Trajectory: rows of `COLUMNS`, the start (step 0) and then one per step. `lost` is the step that diverged."""

    rows: list[Row] = field(default_factory=list)
    lost: int | None = None

    def column(self, name: str) -> list[float]:
        """Return a column's value of each row."""
        return [row[name] for row in self.rows]


def walk(
    surface: Surface,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    steps: int,
    noise: torch.Generator,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Walk:
    """Run the optimizer from its parameter's current value and return the trajectory. Rows exclude the noise.

    The schedule observes the loss after each step. Ends early if a number is not finite or the point is more than
    `LOST` diagonals away.
    """
    weights = optimizer.param_groups[0]["params"][0]
    rate = optimizer.param_groups[0]["lr"]
    path, evaluations = Walk(), 0
    row = _measure(surface, surface.unit * weights.detach()) | {"step": 0, "rate": None, "step_length": None}
    row["evaluations"] = 0
    path.rows.append(row)
    on_row(row)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * schedule(step)
        draw = surface.noise * torch.randn(2, generator=noise, dtype=torch.float64)
        objective = SurfaceObjective(surface, weights, draw)
        optimizer.step(objective)
        evaluations += objective.evaluations
        point = surface.unit * weights.detach()
        row = _measure(surface, point) | {
            "step": step + 1,
            "rate": optimizer.param_groups[0]["lr"],
            "step_length": math.dist(point.tolist(), objective.origin.tolist()),
            "evaluations": evaluations,
        }
        left, right, bottom, top = surface.domain
        distance = math.dist((row["x"], row["y"]), ((left + right) / 2, (bottom + top) / 2))
        numbers = (row["loss"], row["gradient_norm"], distance)
        if not all(map(math.isfinite, numbers)) or distance > LOST * math.dist((left, bottom), (right, top)):
            path.lost = step + 1
            break
        path.rows.append(row)
        on_row(row)
        schedule.observe({"epoch": step + 1, "step": step + 1, "train_loss": row["loss"], "val_loss": row["loss"]})
    return path


def _measure(surface: Surface, point: Tensor) -> Row:
    leaf = point.clone().requires_grad_()
    with torch.enable_grad():
        loss = surface(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
    x, y = point.tolist()
    return {"x": x, "y": y, "loss": loss.item(), "gradient_norm": gradient.norm().item()}


def steps_to(losses: Sequence[float], minimum: float, tolerance: float) -> int | None:
    """Return the step from which the loss stays within `tolerance` of the minimum up to the end, or None."""
    above = [step for step, loss in enumerate(losses) if not loss - minimum <= tolerance]
    arrived = above[-1] + 1 if above else 0
    return arrived if arrived < len(losses) else None


def verdict(path: Walk, surface: Surface, tolerance: float) -> str:
    """Return the first of `VERDICTS` that applies.

    diverged: a number is not finite, or the point is more than `LOST` diagonals away.
    converged: the loss ends within `tolerance` of the minimum.
    stuck at the saddle: the last quarter of the trajectory is within `NEAR` of the plot's width of one saddle.
    oscillates: over the last quarter, the displacement is less than half of the path length, and the second half of
        that quarter is at least half as long as the first. A path shorter than `SEEN` of the plot's width is at rest.
    not converged: otherwise (still moving, or at rest elsewhere).
    """
    if path.lost is not None:
        return "diverged"
    if steps_to(path.column("loss"), surface.minimum, tolerance) is not None:
        return "converged"
    last = list(zip(path.column("x"), path.column("y")))[-max(5, round(WINDOW * len(path.rows))) :]
    left, right, _, _ = surface.domain
    for saddle in surface.saddles:
        if all(math.dist(point, saddle) < NEAR * (right - left) for point in last):
            return "stuck at the saddle"
    return "oscillates" if oscillates(last, SEEN * (right - left)) else "not converged"


def oscillates(points: Sequence[tuple[float, float]], min_length: float) -> bool:
    """Return whether the last quarter of a trajectory oscillates. A path shorter than `min_length` is at rest."""
    lengths = [math.dist(a, b) for a, b in zip(points, points[1:])]
    middle = len(lengths) // 2
    first, second = sum(lengths[:middle]), sum(lengths[middle:])
    if first + second < min_length:
        return False
    return math.dist(points[0], points[-1]) < STRAIGHT * (first + second) and second >= LASTING * first
