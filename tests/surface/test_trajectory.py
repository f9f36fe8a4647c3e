"""Walks on surfaces against plain loops, and their verdicts."""

import math

import numpy as np
import pytest
import torch

from runner.schedule.base import Timeline
from runner.schedule.cosine import Cosine
from runner.surface.beale import Beale
from runner.surface.himmelblau import Himmelblau
from runner.surface.plateau import Plateau
from runner.surface.rastrigin import Rastrigin
from runner.surface.ravine import Ravine
from runner.surface.rosenbrock import Rosenbrock
from runner.surface.saddle import Saddle
from runner.surface.trajectory import LOST, SurfaceObjective, Walk, oscillates, steps_to, verdict
from tests.shared.walks import gradient, point, slopes, walked


@pytest.mark.parametrize("unit", [1.0, 30.0])
def test_gradient_descent_and_momentum_walk_as_a_plain_loop(unit):
    """v = m v + g, x -= lr v in the plane's own numbers: `unit` does not matter to them; 50 steps in NumPy."""
    surface = Rosenbrock(unit=unit)
    for momentum in (0.0, 0.9):
        schedule = Cosine(Timeline(50, 1))
        found = walked(surface, torch.optim.SGD([point(surface)], lr=0.05, momentum=momentum), 50, schedule)
        x, v = np.array(surface.start), np.zeros(2)
        for step in range(50):
            rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 50))
            v = momentum * v + 0.01 * np.array(slopes(surface, *x))
            before, x = x, x - rate * v
            row = found.rows[step + 1]
            assert (row["x"], row["y"]) == pytest.approx(tuple(x), rel=1e-10)
            assert row["rate"] == pytest.approx(rate) and row["step"] == step + 1
            assert row["step_length"] == pytest.approx(np.linalg.norm(x - before), rel=1e-8)
            assert row["loss"] == pytest.approx(0.01 * ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2), rel=1e-9)
            assert row["gradient_norm"] == pytest.approx(0.01 * np.linalg.norm(slopes(surface, *x)), rel=1e-9)


def test_unit_is_the_length_of_a_step_of_adam():
    """Adam's first step has the length of its rate in each coordinate, times unit."""
    surface = Himmelblau(unit=25.0)
    found = walked(surface, torch.optim.Adam([point(surface)], lr=0.002), 1)
    moved = found.rows[1]["x"] - found.rows[0]["x"], found.rows[1]["y"] - found.rows[0]["y"]
    assert tuple(map(abs, moved)) == pytest.approx((0.05, 0.05), rel=1e-6)


def test_noise_is_added_to_the_gradient_and_follows_from_the_seed():
    """On a plane part of the surface the steps' scatter is the noise times the rate; the rows' loss is without it."""
    surface = Plateau(start=(-3.8, 2.4), noise=0.5)
    found = walked(surface, torch.optim.SGD([point(surface)], lr=0.01), 400)
    steps = np.diff(np.array([found.column("x"), found.column("y")]))
    assert steps.std() / 0.01 == pytest.approx(0.5, rel=0.1)
    last = found.rows[-1]
    assert last["loss"] == float(surface(torch.tensor([last["x"], last["y"]], dtype=torch.float64)))
    again = walked(surface, torch.optim.SGD([point(surface)], lr=0.01), 400)
    other = walked(surface, torch.optim.SGD([point(surface)], lr=0.01), 400, seed=1)
    assert again.rows == found.rows and other.rows != found.rows


def test_the_objective_is_one_function_a_step():
    """However often it is asked: the value, the pieces and the gradient belong together, noise included."""
    surface = Beale(noise=1.0)
    weights = point(surface)
    objective = SurfaceObjective(surface, weights, torch.tensor([0.3, -0.4], dtype=torch.float64))
    first, grad = float(objective()), weights.grad.clone()
    assert float(objective.value()) == float(sum(objective.pieces()).detach()) == float(objective()) == first
    assert torch.equal(weights.grad, grad)
    expected = np.array(gradient(surface, surface.start)) + (0.3, -0.4)
    assert (weights.grad * surface.unit).tolist() == pytest.approx(expected.tolist())
    with torch.no_grad():
        weights += 1e-6
    rise = float(objective.value()) - first
    assert rise == pytest.approx(float(grad.sum()) * 1e-6, rel=1e-3)
    assert objective.evaluations == 5


def test_steps_to_tolerance_counts_arrivals_only():
    """A loss that passes through has not arrived; one that starts within has at once."""
    assert steps_to([1, 0.5, 0.1, 0.05], 0, 0.1) == 2
    assert steps_to([1, 0.0, 1, 0.1, 0.1], 0, 0.1) == 3
    assert steps_to([0.1, 0.1], 0, 0.1) == 0
    assert steps_to([1, 0.05, 1], 0, 0.1) is None
    assert steps_to([1, float("nan")], 0, 0.1) is None
    assert steps_to([1.05, 0.95], -1, 2.0) == 1


def test_the_verdict_is_converged_where_the_loss_ends_within_tolerance():
    """Momentum on the ravine at its default rate."""
    surface = Ravine()
    found = walked(surface, torch.optim.SGD([point(surface)], lr=0.03, momentum=0.9), 300)
    assert verdict(found, surface, 1e-6) == "converged"
    assert verdict(found, surface, 1e-14) == "not converged"


def test_the_verdict_is_oscillates_where_steps_go_back_and_forth_without_end():
    """Gradient descent at the edge of stability, and RMSprop with a rate that does not shrink."""
    surface = Ravine()
    edge = walked(surface, torch.optim.SGD([point(surface)], lr=2 / 19.5 * 0.99999), 100)
    assert verdict(edge, surface, 1e-6) == "oscillates"
    surface = Plateau()
    chatter = walked(surface, torch.optim.RMSprop([point(surface)], lr=0.01), 300)
    assert verdict(chatter, surface, 1e-6) == "oscillates"


def test_what_oscillates_and_what_does_not():
    """A circle does; a straight way, a way that dies away, and rest do not."""
    circle = [(math.cos(0.3 * t), math.sin(0.3 * t)) for t in range(200)]
    assert oscillates(circle, 0.01)
    assert not oscillates([(0.01 * t, 0.0) for t in range(200)], 0.01)
    assert not oscillates([((-0.8) ** t, 0.0) for t in range(40)], 1e-9)
    assert not oscillates([(1e-9 * (-1) ** t, 0.0) for t in range(200)], 0.01)


@pytest.mark.parametrize("start", [(-2.0, 0.0), (-2.0, 1e-5)])
def test_gradient_descent_stays_on_the_ridge_of_the_saddle(start):
    """On it for ever, just beside it for the 300 steps; momentum beside it leaves; noise drives it off the ridge."""
    surface = Saddle(start=start)
    plain = walked(surface, torch.optim.SGD([point(surface)], lr=0.1), 300)
    assert verdict(plain, surface, 1e-6) == "stuck at the saddle"
    assert start[1] != 0 or plain.rows[-1]["y"] == 0
    heavy = walked(surface, torch.optim.SGD([point(surface)], lr=0.03, momentum=0.9), 300)
    assert verdict(heavy, surface, 1e-6) == ("converged" if start[1] else "stuck at the saddle")
    noisy = Saddle(start=start, noise=0.05)
    found = walked(noisy, torch.optim.SGD([point(noisy)], lr=0.1), 300)
    assert verdict(found, noisy, 1e-6) != "stuck at the saddle" and abs(found.rows[-1]["y"]) > 0.5


def test_the_verdict_is_diverged_where_the_walk_is_lost():
    """Gradient descent above 2 over the largest curvature; the walk ends there, every row a number."""
    surface = Ravine()
    found = walked(surface, torch.optim.SGD([point(surface)], lr=0.2), 300)
    assert verdict(found, surface, 1e-6) == "diverged"
    assert found.lost == len(found.rows) < 20
    assert math.hypot(found.rows[-1]["x"], found.rows[-1]["y"]) < (LOST + 1) * math.hypot(6.5, 4)
    rosenbrock = Rosenbrock(scale=1.0)
    found = walked(rosenbrock, torch.optim.SGD([point(rosenbrock)], lr=10.0), 50)
    assert found.lost is not None and all(math.isfinite(loss) for loss in found.column("loss"))


def test_the_verdict_is_not_converged_on_the_way_and_at_rest_elsewhere():
    """Plain descent in Rosenbrock's valley; a hole of Rastrigin's that is not the deepest; two rows of a walk."""
    for surface in (Rosenbrock(), Rastrigin()):
        found = walked(surface, torch.optim.SGD([point(surface)], lr=0.1), 300)
        assert verdict(found, surface, 1e-6) == "not converged"
    assert verdict(Walk(found.rows[:2]), Rastrigin(), 1e-6) == "not converged"
