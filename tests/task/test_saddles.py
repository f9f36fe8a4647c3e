"""The task `saddles` against exact cases: random functions, quadratics, a network's Hessian."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.core.errors import ConfigError
from runner.optimizer.flat_params import Flat
from runner.task.random_functions import Field, critical_points, curvature
from runner.task.saddles import FullLoss, Saddles, measure
from tests.shared.results import result_of, results_of


class Quadratic:
    """`x A x / 2 - b x`: one critical point, where A x = b."""

    def __init__(self, matrix: np.ndarray, linear: np.ndarray):
        self.matrix, self.linear = matrix, linear

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.matrix @ x - self.linear

    def hessian(self, x: np.ndarray) -> np.ndarray:
        return self.matrix


def test_the_saddles_experiment_runs(cli):
    """Both kinds leave a csv, a picture and the numbers of the table."""
    words = (
        "task.dimension=[1,3]",
        "task.functions=2",
        "task.starts=8",
        "task.features=50",
        "task.looks=2",
        "epochs=1",
    )
    code, out, _ = cli("-m", "experiment=lecture/saddles_in_high_dimensions", "data.limit=200", *words)
    assert code == 0 and "share of negative directions" in out
    folder = Path("outputs/lecture/saddles_in_high_dimensions")
    for name, result in results_of(folder).items():
        assert (folder / name / "saddles.png").stat().st_size > 1000
        with (folder / name / "saddles.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == result["points"] > 0
        assert result["negative"] == pytest.approx(np.mean([float(row["negative"]) for row in rows]))


def test_the_formulas_of_a_random_function_are_its_derivatives():
    """Gradient and Hessian agree with central differences."""
    draws = np.random.default_rng(0)
    field, x, h = Field.draw(4, 60, draws), draws.uniform(0, 10, 4), 1e-5
    units = np.eye(4) * h
    gradient = [(field.value(x + e) - field.value(x - e)) / (2 * h) for e in units]
    hessian = [(field.gradient(x + e) - field.gradient(x - e)) / (2 * h) for e in units]
    np.testing.assert_allclose(field.gradient(x), gradient, atol=1e-8)
    np.testing.assert_allclose(field.hessian(x), hessian, atol=1e-8)


def test_random_functions_are_gaussian_fields_of_length_scale_one():
    """Mean 0, variance 1, and covariance exp(-r^2 / 2) at distance r, over many functions."""
    draws = np.random.default_rng(1)
    fields = [Field.draw(3, 100, draws) for _ in range(4000)]
    here, there = np.zeros(3), np.array([0.8, 0.0, 0.6])
    values = np.array([[f.value(here), f.value(there)] for f in fields])
    np.testing.assert_allclose(values.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(np.cov(values.T), [[1, np.exp(-0.5)], [np.exp(-0.5), 1]], atol=0.08)


@pytest.mark.parametrize("down", range(6))
def test_the_one_critical_point_of_a_quadratic_is_found_with_its_index(down):
    """From every start the same point, and `down` of five directions bend down."""
    draws = np.random.default_rng(down)
    turn, _ = np.linalg.qr(draws.standard_normal((5, 5)))
    signs = np.array([-1.0] * down + [1.0] * (5 - down))
    matrix = turn @ np.diag(signs * np.array([0.5, 1, 2, 3, 4])) @ turn.T
    where = draws.standard_normal(5)
    points = critical_points(Quadratic(matrix, matrix @ where), draws.uniform(-3, 3, (4, 5)))
    np.testing.assert_allclose(points, [where], atol=1e-6)
    assert curvature(matrix, 1e-4)["negative"] == pytest.approx(down / 5)
    assert curvature(matrix, 1e-4)["positive"] == pytest.approx(1 - down / 5)


def test_flat_directions_count_neither_way():
    """An eigenvalue below the share of the largest is neither up nor down."""
    found = curvature(np.diag([-1.0, -1e-6, 0.0, 2.0]), 1e-4)
    assert found == {"negative": 0.25, "positive": 0.25, "smallest": -1.0, "largest": 2.0}


def test_in_a_line_extrema_alternate_and_in_a_plane_half_of_the_points_are_saddles():
    """Exact for smooth functions: on a line no saddle and as many minima as maxima; in a plane the saddles are as many
    as all others (Morse; Longuet-Higgins 1957)."""
    task = Saddles(dimension=[1, 2], functions=20, starts=20, features=200)
    rows = task.in_functions(0, _Quiet())
    line = [row["negative"] for row in rows if row["dimension"] == 1]
    plane = np.array([row["negative"] for row in rows if row["dimension"] == 2])
    assert set(line) == {0.0, 1.0} and np.mean(line) == pytest.approx(0.5, abs=0.1)
    assert (plane == 0.5).mean() == pytest.approx(0.5, abs=0.08)
    assert max(row["gradient_norm"] for row in rows) < 1e-7


def test_a_network_is_looked_at_with_its_exact_hessian():
    """Gradient norm and eigenvalues agree with torch.autograd.functional's Hessian of the same loss."""
    torch.manual_seed(0)
    run = _Run()
    found = measure(run, 1e-6)
    model = run.model.double()
    images, labels = run.images.double(), run.labels
    flat = Flat(list(model.parameters()))

    def loss(vector: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(model.named_parameters()), flat.split(vector)))
        return cross_entropy(torch.func.functional_call(model, named, (images,)), labels)

    values = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat.get()).numpy())
    gradient = torch.autograd.functional.jacobian(loss, flat.get())
    assert found["value"] == pytest.approx(loss(flat.get()).item())
    assert found["gradient_norm"] == pytest.approx(gradient.norm().item())
    assert found["smallest"] == pytest.approx(values[0]) and found["largest"] == pytest.approx(values[-1])
    assert found["negative"] == pytest.approx((values < -1e-6 * np.abs(values).max()).mean())
    assert 0 < found["negative"] < 1
    assert len(FullLoss(run).parts) == 2


def test_what_cannot_work_is_refused():
    """A line each, with the way out."""
    with pytest.raises(ConfigError, match=r"task.features=50: too few for 10 dimensions.*task.features=100 or more"):
        Saddles(dimension=10, features=50)
    with pytest.raises(ConfigError, match=r"task.dimension=\[\]: give at least one"):
        Saddles(dimension=[])


def test_a_network_too_large_for_all_its_eigenvalues_is_refused(cli):
    """Before anything runs, with two ways out."""
    code, _, err = cli("task=saddles", "task.of=network", "model=mlp")
    assert code == 2 and "9,610 parameters" in err and "model.hidden=[8]" in err
    assert cli("task=saddles", "task.of=neither")[0] == 2


def test_random_functions_do_not_depend_on_the_network(cli):
    """Another model or rate is no other run; another seed is."""
    words = ("task=saddles", "task.dimension=2", "task.functions=1", "task.starts=5", "task.features=20")
    assert cli(*words)[0] == 0
    first = result_of(Path("outputs/runs"))
    assert "done already" in cli(*words, "model=mlp", "optimizer.lr=0.5")[1]
    assert cli(*words, "seed=1")[0] == 0
    others = [r for r in results_of(Path("outputs/runs")).values() if r["fingerprint"] != first["fingerprint"]]
    assert len(others) == 1 and others[0]["points"] > 0


class _Quiet:
    def progress(self, *_: object) -> None:
        """Nobody listens."""


class _Split:
    def __init__(self, images: torch.Tensor, labels: torch.Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, order):
        return ((self.images[rows], self.labels[rows]) for rows in order)


class _Run:
    """What `measure` reads of a run: 300 images, more than one piece."""

    def __init__(self):
        draws = torch.Generator().manual_seed(0)
        self.images = torch.randn(300, 4, generator=draws)
        self.labels = torch.randint(3, (300,), generator=draws)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
        self.train_split, self.device = _Split(self.images, self.labels), torch.device("cpu")
        self.normalize = torch.nn.Identity()
