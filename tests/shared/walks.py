"""Walks on surfaces, and the gradients there."""

import math

import torch

from runner.schedule.base import Timeline
from runner.schedule.constant import Constant
from runner.surface.beale import Beale
from runner.surface.himmelblau import Himmelblau
from runner.surface.monkey_saddle import MonkeySaddle
from runner.surface.rastrigin import Rastrigin
from runner.surface.ravine import Ravine
from runner.surface.rosenbrock import Rosenbrock
from runner.surface.saddle import Saddle
from runner.surface.trajectory import walk


def slopes(surface, x, y):
    """The gradients as they are derived by hand."""
    if isinstance(surface, Ravine):
        return x / surface.condition, y
    if isinstance(surface, Saddle):
        return x, y**3 - y
    if isinstance(surface, MonkeySaddle):
        r2 = x**2 + y**2
        return 3 * x**2 - 3 * y**2 + 3 * r2 * x, -6 * x * y + 3 * r2 * y
    if isinstance(surface, Rosenbrock):
        return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)
    if isinstance(surface, Beale):
        a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
        return (
            2 * a * (y - 1) + 2 * b * (y**2 - 1) + 2 * c * (y**3 - 1),
            2 * a * x + 4 * b * x * y + 6 * c * x * y**2,
        )
    if isinstance(surface, Himmelblau):
        a, b = x**2 + y - 11, x + y**2 - 7
        return 4 * x * a + 2 * b, 2 * a + 4 * y * b
    if isinstance(surface, Rastrigin):
        return tuple(2 * t + 20 * math.pi * math.sin(2 * math.pi * t) for t in (x, y))
    well = math.exp(-(x**2 + y**2) / 2)
    return x * well, y * well


def gradient(surface, point):
    """By automatic differentiation."""
    at = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(surface(at), at)
    return found.tolist()


def point(surface):
    """The optimizer's weights at the surface's start."""
    return (torch.tensor(surface.start, dtype=torch.float64) / surface.unit).requires_grad_()


def walked(surface, optimizer, steps, schedule=None, seed=0):
    """A walk with a constant rate unless told otherwise."""
    schedule = schedule or Constant(Timeline(steps, 1))
    return walk(surface, optimizer, schedule, steps, torch.Generator().manual_seed(seed))
