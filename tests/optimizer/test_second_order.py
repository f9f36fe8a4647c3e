"""Newton, Newton-CG, BFGS and L-BFGS against closed forms, SciPy and torch."""

import numpy as np
import pytest
import scipy.optimize
import torch

from runner.core.errors import ConfigError
from runner.optimizer.base import check_memory
from runner.optimizer.bfgs import BFGS, update_inverse
from runner.optimizer.lbfgs import LBFGS
from runner.optimizer.newton import Newton, newton_direction
from runner.optimizer.newton_cg import NewtonCG
from tests.shared.optimizer_problems import BASIS, BOWL, CENTRE, bowl, function, rosenbrock

METHODS = [Newton, NewtonCG, BFGS, LBFGS]
DRAW = np.random.default_rng(4)


def double_well(p):
    """A saddle at 0 with minima at (0, 1) and (0, -1)."""
    return p[0] ** 2 + p[1] ** 4 / 4 - p[1] ** 2 / 2


def iterations(make, f, start, gtol=1e-5, most=500):
    """Where a method ends, and the steps until SciPy's own test of the gradient stops it."""
    point, problem = function(f, start)
    optimizer = make([point])
    for count in range(most):
        problem()
        if point.grad.abs().max() <= gtol:
            return point.detach().numpy(), count
        optimizer.step(problem)
    raise AssertionError(f"not there after {most} steps")


# -- Newton -----------------------------------------------------------------------------------------------------------


def test_newton_needs_one_step_on_a_quadratic():
    """From anywhere, whatever the condition number; a second step has nothing left to do."""
    point, problem = function(bowl, [5.0, -3, 2, 8, 1, -7])
    Newton([point]).step(problem)
    torch.testing.assert_close(point.detach(), CENTRE, rtol=1e-9, atol=1e-9)


def test_twenty_newton_steps_are_the_formula():
    """On Rosenbrock: H^-1 g with the Hessian by hand, halved until Armijo's condition holds."""
    point, problem = function(rosenbrock, [-1.2, 1.0])
    optimizer = Newton([point])
    x = np.array([-1.2, 1.0])
    f = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2  # noqa: E731
    for _ in range(20):
        optimizer.step(problem)
        g = np.array([-400 * x[0] * (x[1] - x[0] ** 2) - 2 * (1 - x[0]), 200 * (x[1] - x[0] ** 2)])
        if abs(g).max() > 1e-7:
            h = np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200]])
            direction, length = -np.linalg.solve(h, g), 1.0
            while f(x + length * direction) > f(x) + 1e-4 * length * g @ direction:
                length /= 2
            x = x + length * direction
        np.testing.assert_allclose(point.detach().numpy(), x, rtol=1e-8)
    np.testing.assert_allclose(x, [1, 1], atol=1e-5)


def test_an_indefinite_hessian_is_made_positive():
    """Eigenvalues become their absolute values, none below the damping times the largest."""
    values = np.array([-4.0, -1e-9, 0, 0.1, 2, 8])
    matrix, g = torch.tensor(BASIS @ np.diag(values) @ BASIS.T), torch.tensor(DRAW.normal(size=6))
    expected = -BASIS @ (BASIS.T @ g.numpy() / np.array([4, 0.08, 0.08, 0.1, 2, 8]))
    np.testing.assert_allclose(newton_direction(matrix, g, 0.01).numpy(), expected, rtol=1e-6)
    assert g @ newton_direction(matrix, g, 0.01) < 0
    np.testing.assert_allclose(newton_direction(BOWL, g, 0.5).numpy(), -np.linalg.solve(BOWL, g), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_saddles_are_left(method):
    """From just beside a saddle each method goes down to a minimum, not back to the saddle."""
    point, problem = function(double_well, [0.5, 1e-3])
    optimizer = method([point])
    for _ in range(30):
        optimizer.step(problem)
    np.testing.assert_allclose(point.detach().abs().numpy(), [0, 1], atol=1e-5)


# -- against SciPy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "name"), [(lambda p: BFGS(p, max_iter=1), "BFGS"), (NewtonCG, "Newton-CG")])
@pytest.mark.parametrize("start", [[-1.2, 1.0], [2.0, 2.0, -1.0, 0.5]])
def test_iterations_are_scipys(make, name, start):
    """On Rosenbrock: the same minimum, and as many iterations as SciPy within a factor of 1.5."""
    jac, hessp = scipy.optimize.rosen_der, scipy.optimize.rosen_hess_prod if name == "Newton-CG" else None
    theirs = scipy.optimize.minimize(scipy.optimize.rosen, start, jac=jac, hessp=hessp, method=name)
    assert theirs.success
    found, count = iterations(make, rosenbrock, start)
    np.testing.assert_allclose(found, theirs.x, atol=1e-4)
    assert theirs.nit / 1.5 <= count <= theirs.nit * 1.5, (count, theirs.nit)


# -- BFGS -------------------------------------------------------------------------------------------------------------


def test_the_update_is_the_textbooks_and_keeps_the_secant():
    """(I - r s y^T) H (I - r y s^T) + r s s^T; symmetric, positive definite, and it maps y to s."""
    inverse, s, y = BOWL.clone(), CENTRE, torch.tensor(DRAW.normal(size=6))
    y = y if y @ s > 0 else -y
    r, one = 1 / (y @ s), torch.eye(6, dtype=torch.float64)
    expected = (one - r * torch.outer(s, y)) @ BOWL @ (one - r * torch.outer(y, s)) + r * torch.outer(s, s)
    update_inverse(inverse, s, y)
    torch.testing.assert_close(inverse, expected)
    torch.testing.assert_close(inverse @ y, s)
    assert torch.linalg.eigvalsh(inverse).min() > 0


def test_bfgs_learns_the_inverse_hessian_of_a_quadratic():
    """After as many steps as dimensions and a few more, H^-1 is there and so is the minimum."""
    point, problem = function(bowl, [5.0, -3, 2, 8, 1, -7])
    optimizer = BFGS([point], max_iter=40, tolerance_grad=1e-10)
    optimizer.step(problem)
    torch.testing.assert_close(point.detach(), CENTRE, rtol=0, atol=1e-8)
    learnt = optimizer.state[point]["inverse"] @ BOWL
    torch.testing.assert_close(learnt, torch.eye(6, dtype=torch.float64), rtol=0, atol=0.2)


def test_bfgs_starts_from_the_curvature_it_has_seen():
    """Before its first update the matrix is s.y / y.y times the identity."""
    start = torch.tensor([5.0, -3, 2, 8, 1, -7], dtype=torch.float64)
    point, problem = function(bowl, start.tolist())
    optimizer = BFGS([point], max_iter=1)
    optimizer.step(problem)
    s = point.detach() - start
    y = BOWL @ s
    expected = torch.eye(6, dtype=torch.float64) * (s @ y) / (y @ y)
    update_inverse(expected, s, y)
    torch.testing.assert_close(optimizer.state[point]["inverse"], expected)


def test_bfgs_begins_anew_where_its_matrix_points_uphill():
    """A matrix that rounding made useless is dropped; the loss falls all the same."""
    point, problem = function(bowl, [5.0, -3, 2, 8, 1, -7])
    optimizer = BFGS([point], max_iter=3)
    optimizer.state[point]["inverse"] = -torch.eye(6, dtype=torch.float64)
    before = problem.value()
    optimizer.step(problem)
    assert problem.value() < before


# -- L-BFGS, tolerances, memory --------------------------------------------------------------------------------------


def test_lbfgs_is_torchs_over_groups():
    """Two groups as the runner makes them are torch's one, bit for bit."""
    a, problem = function(rosenbrock, [-1.2, 1.0, 0.5])
    theirs = torch.optim.LBFGS([a], lr=1, max_iter=4, history_size=5, line_search_fn="strong_wolfe")
    parts = [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in ([-1.2], [1.0, 0.5])]
    other = type(problem)(parts, lambda: iter([rosenbrock(torch.cat(parts))]))
    groups = [{"params": [parts[0]], "name": "x"}, {"params": [parts[1]], "weight_decay": 0.0}]
    ours = LBFGS(groups, max_iter=4, history_size=5)
    for _ in range(5):
        theirs.step(problem)
        ours.step(other)
        assert torch.equal(torch.cat(parts), a)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_moves_at_a_minimum(method):
    """Where the gradient is below the tolerance a step leaves the weights as they are."""
    point, problem = function(bowl, CENTRE.tolist())
    method([point]).step(problem)
    assert torch.equal(point.detach(), CENTRE)


def test_the_memory_of_a_matrix_is_counted():
    """8 bytes an entry for Newton, as the issue's own example has it; the limit is a key."""
    with pytest.raises(ConfigError) as caught:
        check_memory("newton", "Hessian", 33_510, 8, 2)
    assert str(caught.value) == (
        "newton needs a 9.0 GB Hessian for 33,510 parameters (limit 2 GB): use newton_cg or lbfgs, or a smaller model"
    )
    check_memory("newton", "Hessian", 33_510, 8, 9)
    weights = [torch.empty(15_812, device="meta", requires_grad=True)]
    with pytest.raises(ConfigError, match="newton needs a 2.0 GB"):
        Newton(weights)
    BFGS(weights), Newton(weights, max_gb=2.1)
