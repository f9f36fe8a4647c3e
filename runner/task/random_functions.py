"""Random functions of many dimensions, their critical points, and how these bend. NumPy and SciPy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.distance import cdist

RESIDUAL = 1e-8  # norm of the gradient, over its typical size, below which a point is critical
APART = 1e-3  # length scales: two searches that end nearer than this found the same point


@dataclass(frozen=True)
class Field:
    """A smooth random function of R^n: `f(x) = sqrt(1/M) sum_k a_k cos(w_k x + b_k)`, random Fourier features (Rahimi
    & Recht 2007) with Rayleigh amplitudes, so that each term is gaussian: for many features a gaussian field with mean
    0, variance 1 and covariance `exp(-|x - y|^2 / 2)`, whose length scale is 1.
    """

    frequencies: np.ndarray  # [M, n], standard normal
    phases: np.ndarray  # [M], uniform
    amplitudes: np.ndarray  # [M]

    @classmethod
    def draw(cls, dimension: int, features: int, draws: np.random.Generator) -> "Field":
        """A function of its own."""
        return cls(
            draws.standard_normal((features, dimension)),
            draws.uniform(0, 2 * np.pi, features),
            draws.rayleigh(1.0, features) / np.sqrt(features),
        )

    def value(self, x: np.ndarray) -> float:
        """f at a point [n]."""
        return float(self.amplitudes @ np.cos(self.frequencies @ x + self.phases))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """[n]"""
        return -(self.amplitudes * np.sin(self.frequencies @ x + self.phases)) @ self.frequencies

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """[n, n]"""
        weights = self.amplitudes * np.cos(self.frequencies @ x + self.phases)
        return -(self.frequencies.T * weights) @ self.frequencies


def critical_points(function: Any, starts: np.ndarray) -> np.ndarray:
    """Different points [P, n] with a vanishing gradient, by least squares on it from each start [S, n].

    function: has `gradient` and `hessian`. A search that ends in a minimum of the gradient's norm above zero has found
    none. What is found is no even sample of all critical points: those with wide basins are found more often.
    """
    typical = np.sqrt(starts.shape[1])  # of the gradient's norm in a field of length scale and variance 1
    found: list[np.ndarray] = []
    for start in starts:
        end = least_squares(function.gradient, start, function.hessian, method="lm", xtol=1e-12, ftol=1e-15, gtol=1e-15)
        new = np.linalg.norm(end.fun) <= RESIDUAL * typical
        if new and (not found or cdist([end.x], found).min() > APART):
            found.append(end.x)
    return np.array(found).reshape(-1, starts.shape[1])


def curvature(matrix: np.ndarray, flat: float) -> dict[str, float]:
    """Of a Hessian: `negative` and `positive` (shares of its eigenvalues beyond `flat` times the largest |eigenvalue|),
    `smallest`, `largest`."""
    values = np.linalg.eigvalsh(matrix)
    eps = flat * np.abs(values).max()
    return {
        "negative": float((values < -eps).mean()),
        "positive": float((values > eps).mean()),
        "smallest": float(values[0]),
        "largest": float(values[-1]),
    }
