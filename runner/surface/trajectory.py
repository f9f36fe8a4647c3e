"""An optimizer walks on a surface: where it was after each step, and what is to be said of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from runner.surface.base import Surface

COLUMNS = ("step", "x", "y", "loss", "gradient_norm", "rate", "step_length", "evaluations")
VERDICTS = ("converged", "oscillates", "stuck at the saddle", "diverged", "not converged")
LOST = 10.0  # diagonals of the picture: so far from its middle is diverged
NEAR = 0.05  # of the picture's width: so near a saddle is at it
WINDOW = 0.25  # of the walk, its end: what is asked whether it stays or oscillates
STRAIGHT = 0.5  # way made good over way travelled: less is back and forth
SEEN = 0.001  # of the picture's width: a way travelled that is shorter is rest
LASTING = 0.5  # way travelled in the second half of the window over that in the first: less is dying away

Row = dict[str, Any]


class SurfaceObjective:
    """The loss of one step as its optimizer sees it, with the interface of `runner.train.loop.SurfaceObjective`.

    The point is `unit * weights`. Noise is one draw a step, a plane added to the surface: a mini-batch's loss, the
    same however often the step looks, and its gradient is that of the surface plus the draw. As in training, the
    gradient stands when the step begins, and the first call returns the loss that was found then.
    """

    def __init__(self, surface: Surface, weights: Tensor, draw: Tensor):
        self.surface, self.weights, self.draw = surface, weights, draw
        self.origin = surface.unit * weights.detach().clone()
        self.evaluations = 0
        self._ready = [self._gradient()]

    def loss(self) -> Tensor:
        """The loss with its graph."""
        self.evaluations += 1
        point = self.surface.unit * self.weights
        return (self.surface(point) + self.draw @ (point - self.origin)) / self.surface.unit**2

    def __call__(self) -> Tensor:
        """The loss; the weights' `grad` is set."""
        return self._ready.pop() if self._ready else self._gradient()

    @torch.enable_grad()
    def _gradient(self) -> Tensor:
        self.weights.grad = None
        loss = self.loss()
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def value(self) -> Tensor:
        """The loss alone, for line searches."""
        return self.loss()

    def pieces(self) -> Iterator[Tensor]:
        """The loss in one piece, with its graph: for second derivatives."""
        yield self.loss()


@dataclass
class Walk:
    """Rows of `COLUMNS`: the start (step 0), then one a step. `lost` is the step that led out of all numbers."""

    rows: list[Row] = field(default_factory=list)
    lost: int | None = None

    def column(self, name: str) -> list[float]:
        """One value a row."""
        return [row[name] for row in self.rows]


def walk(
    surface: Surface,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    steps: int,
    noise: torch.Generator,
    tell: Callable[[Row], None] = lambda row: None,
) -> Walk:
    """Walks from where the optimizer's one parameter stands; the loss and gradient in the rows are without noise.

    A schedule that listens is told the loss after each step. Ends early where a number is not finite or the point
    is more than `LOST` diagonals away.
    """
    weights = optimizer.param_groups[0]["params"][0]
    rate = optimizer.param_groups[0]["lr"]
    found, evaluations = Walk(), 0
    row = _look(surface, surface.unit * weights.detach()) | {"step": 0, "rate": None, "step_length": None}
    row["evaluations"] = 0
    found.rows.append(row)
    tell(row)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * schedule(step)
        draw = surface.noise * torch.randn(2, generator=noise, dtype=torch.float64)
        objective = SurfaceObjective(surface, weights, draw)
        optimizer.step(objective)
        evaluations += objective.evaluations
        point = surface.unit * weights.detach()
        row = _look(surface, point) | {
            "step": step + 1,
            "rate": optimizer.param_groups[0]["lr"],
            "step_length": math.dist(point.tolist(), objective.origin.tolist()),
            "evaluations": evaluations,
        }
        left, right, bottom, top = surface.domain
        away = math.dist((row["x"], row["y"]), ((left + right) / 2, (bottom + top) / 2))
        numbers = (row["loss"], row["gradient_norm"], away)
        if not all(map(math.isfinite, numbers)) or away > LOST * math.dist((left, bottom), (right, top)):
            found.lost = step + 1
            break
        found.rows.append(row)
        tell(row)
        schedule.observe({"epoch": step + 1, "step": step + 1, "train_loss": row["loss"], "val_loss": row["loss"]})
    return found


def _look(surface: Surface, point: Tensor) -> Row:
    at = point.clone().requires_grad_()
    with torch.enable_grad():
        loss = surface(at)
        (gradient,) = torch.autograd.grad(loss, at)
    x, y = point.tolist()
    return {"x": x, "y": y, "loss": loss.item(), "gradient_norm": gradient.norm().item()}


def steps_to(losses: Sequence[float], minimum: float, tolerance: float) -> int | None:
    """The step from which on the loss stays within `tolerance` of the minimum; None where it does not end there.

    To pass through on the way out is no arrival.
    """
    above = [step for step, loss in enumerate(losses) if not loss - minimum <= tolerance]
    arrived = above[-1] + 1 if above else 0
    return arrived if arrived < len(losses) else None


def verdict(found: Walk, surface: Surface, tolerance: float) -> str:
    """One of `VERDICTS`, the first whose rule holds:

    diverged: the walk was lost (a number that is not finite, or more than `LOST` diagonals away).
    converged: the loss ends within `tolerance` of the minimum.
    stuck at the saddle: the last quarter of the walk lies nearer than `NEAR` of the picture's width to one of the
        surface's saddles.
    oscillates: over the last quarter of the steps the way made good is less than half of the way travelled, and the
        second half of that quarter travels at least half as far as the first: back and forth without an end. A way
        shorter than `SEEN` of the picture's width is rest.
    not converged: all else: on its way, or at rest somewhere else.
    """
    if found.lost is not None:
        return "diverged"
    if steps_to(found.column("loss"), surface.minimum, tolerance) is not None:
        return "converged"
    last = list(zip(found.column("x"), found.column("y")))[-max(5, round(WINDOW * len(found.rows))) :]
    left, right, _, _ = surface.domain
    for saddle in surface.saddles:
        if all(math.dist(point, saddle) < NEAR * (right - left) for point in last):
            return "stuck at the saddle"
    return "oscillates" if oscillates(last, SEEN * (right - left)) else "not converged"


def oscillates(points: Sequence[tuple[float, float]], least: float) -> bool:
    """The rule of that verdict for the last quarter of a walk; a way travelled shorter than `least` is rest."""
    lengths = [math.dist(a, b) for a, b in zip(points, points[1:])]
    middle = len(lengths) // 2
    first, second = sum(lengths[:middle]), sum(lengths[middle:])
    if first + second < least:
        return False
    return math.dist(points[0], points[-1]) < STRAIGHT * (first + second) and second >= LASTING * first
