"""Random functions of many dimensions, their critical points and their curvature. NumPy and SciPy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.distance import cdist

RESIDUAL = 1e-8  # gradient norm over its typical size; a point below it is critical
APART = 1e-3  # length scales: two searches that end closer than this have the same point


@dataclass(frozen=True)
class Field:
    """Smooth random function of R^n: `f(x) = sqrt(1/M) sum_k a_k cos(w_k x + b_k)`.

    Random Fourier features (Rahimi & Recht 2007) with Rayleigh amplitudes, so that each term is Gaussian. For many
    features it is a Gaussian field with mean 0, variance 1, covariance `exp(-|x - y|^2 / 2)` and length scale 1.
    """

    frequencies: np.ndarray  # [M, n], standard normal
    phases: np.ndarray  # [M], uniform
    amplitudes: np.ndarray  # [M]

    @classmethod
    def draw(cls, dimension: int, features: int, draws: np.random.Generator) -> "Field":
        """Draw a random function."""
        return cls(
            draws.standard_normal((features, dimension)),
            draws.uniform(0, 2 * np.pi, features),
            draws.rayleigh(1.0, features) / np.sqrt(features),
        )

    def value(self, x: np.ndarray) -> float:
        """Return f at a point [n]."""
        return float(self.amplitudes @ np.cos(self.frequencies @ x + self.phases))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """Return the gradient [n] at a point [n]."""
        return -(self.amplitudes * np.sin(self.frequencies @ x + self.phases)) @ self.frequencies

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """Return the Hessian [n, n] at a point [n]."""
        weights = self.amplitudes * np.cos(self.frequencies @ x + self.phases)
        return -(self.frequencies.T * weights) @ self.frequencies


def critical_points(function: Any, starts: np.ndarray) -> np.ndarray:
    """Return distinct points [P, n] with zero gradient, by least squares on the gradient from each start [S, n].

    function: has `gradient` and `hessian`. A search that ends in a positive minimum of the gradient norm gives no
    point. The sample is not uniform: points with wide basins are more frequent.
    """
    typical = np.sqrt(starts.shape[1])  # gradient norm of a field with length scale and variance 1
    points: list[np.ndarray] = []
    for start in starts:
        end = least_squares(function.gradient, start, function.hessian, method="lm", xtol=1e-12, ftol=1e-15, gtol=1e-15)
        is_critical = np.linalg.norm(end.fun) <= RESIDUAL * typical
        if is_critical and (not points or cdist([end.x], points).min() > APART):
            points.append(end.x)
    return np.array(points).reshape(-1, starts.shape[1])


def curvature(matrix: np.ndarray, flat: float) -> dict[str, float]:
    """Return facts about a Hessian's eigenvalues: `smallest`, `largest`, and the shares `negative` and `positive`.

    The shares count eigenvalues beyond `flat` times the largest |eigenvalue|.
    """
    values = np.linalg.eigvalsh(matrix)
    eps = flat * np.abs(values).max()
    return {
        "negative": float((values < -eps).mean()),
        "positive": float((values > eps).mean()),
        "smallest": float(values[0]),
        "largest": float(values[-1]),
    }
