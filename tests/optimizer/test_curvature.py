"""Hessians and their products against closed forms; conjugate gradients and the line search on them."""

import numpy as np
import torch

from runner.model.convnet import ConvNet
from runner.optimizer.flat_params import Curvature, Flat, backtrack
from runner.optimizer.newton import hessian
from runner.optimizer.newton_cg import hessian_product, truncated_cg
from tests.shared.optimizer_problems import BOWL, CENTRE, START, X, bowl, classifier, function, regression


def test_the_hessian_is_exact_and_sums_over_pieces():
    """On the softmax regression it is sum x x^T (diag p - p p^T) / n, with the vectors `[4, 3]` flattened."""
    w, problem = regression()
    p = np.exp(X @ START)
    p /= p.sum(1, keepdims=True)
    blocks = [np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) for x, q in zip(X, p)]
    np.testing.assert_allclose(hessian(problem, Flat([w])).numpy(), sum(blocks) / len(X), rtol=1e-9, atol=1e-12)


def test_products_are_rows_of_the_hessian_for_convolutions():
    """Many products at once, one product, and the product over pieces agree on a channels-last network."""
    torch.manual_seed(0)
    model = (
        ConvNet([2, 3], 4, in_channels=1, num_classes=3, image_size=4).double().to(memory_format=torch.channels_last)
    )
    problem = classifier(model, torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3)
    flat = Flat(problem.params)
    matrix, vectors = hessian(problem, flat), torch.randn(2, len(flat), dtype=torch.float64)
    torch.testing.assert_close(hessian_product(problem, flat, vectors[0]), matrix @ vectors[0])
    whole = Curvature(sum(problem.losses()), flat)
    torch.testing.assert_close(whole.products(vectors), vectors @ matrix)
    torch.testing.assert_close(whole.product(vectors[1]), matrix @ vectors[1])
    problem()
    small = 1e-6 * vectors[0]
    before, origin = flat.gradient(), flat.get()
    with torch.no_grad():
        flat.set(origin + small)
    problem()
    torch.testing.assert_close(flat.gradient() - before, matrix @ small, rtol=1e-3, atol=1e-9)


def test_a_linear_loss_has_no_curvature():
    """Products are zero where no gradient depends on the weights."""
    point, problem = function(lambda p: p.sum(), [1.0, 2.0])
    assert torch.equal(hessian(problem, Flat([point])), torch.zeros(2, 2, dtype=torch.float64))


def test_cg_solves_the_newton_equations_up_to_its_tolerance():
    """The residual ends below min(1/2, sqrt|g|) |g|; a small gradient asks for a good solution."""
    for scale in (1.0, 1e-8):
        g = scale * BOWL @ CENTRE
        found = truncated_cg(lambda v: BOWL @ v, g, 50)
        assert (BOWL @ found + g).norm() <= min(0.5, g.norm() ** 0.5) * g.norm()
    torch.testing.assert_close(found, -scale * CENTRE, rtol=1e-2, atol=0)


def test_cg_stops_at_negative_curvature():
    """At first: down the gradient, as long as the curvature says; later: with what was found so far."""
    diagonal, g = torch.tensor([-2.0, -2.0]), torch.tensor([3.0, 4.0])
    torch.testing.assert_close(truncated_cg(lambda v: diagonal * v, g, 9), -g * 25 / 50)
    torch.testing.assert_close(truncated_cg(lambda v: 0 * v, g, 9), -g)
    diagonal, g = torch.tensor([1.0, -0.1]), torch.tensor([1.0, 0.5])
    first = -g * (1.25 / (1 - 0.1 * 0.25))
    torch.testing.assert_close(truncated_cg(lambda v: diagonal * v, g, 9), first)


def test_cg_stops_at_its_limit():
    """Products cost passes over the data: never more than `max_cg`."""
    seen = []
    truncated_cg(lambda v: seen.append(v) or BOWL @ v, 1e-9 * CENTRE, 3)
    assert len(seen) == 3


@torch.no_grad()
def test_a_line_search_that_finds_nothing_stays():
    """Uphill there is no step: the weights are put back exactly."""
    point, problem = function(bowl, [5.0, -3, 2, 8, 1, -7])
    before, uphill = point.clone(), BOWL @ (point - CENTRE)
    assert not backtrack(problem, Flat([point]), uphill, float(problem.value()), -float(uphill @ uphill), 1.0)
    assert torch.equal(point, before)


@torch.no_grad()
def test_a_line_search_wants_its_share_of_what_the_slope_promises():
    """A step to the other side of a parabola that gains next to nothing is halved."""
    point, problem = function(lambda p: (p**2).sum() / 2, [1.0])
    direction = torch.tensor([-2 + 1e-6], dtype=torch.float64)
    assert backtrack(problem, Flat([point]), direction, 0.5, float(direction), 1.0)
    torch.testing.assert_close(point, 1 + direction / 2)
