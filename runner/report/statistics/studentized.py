"""Studentized range distribution, vectorized, because SciPy's own takes 5 ms for a single value."""

import functools
from collections.abc import Callable

import numpy as np
from scipy import special
from scipy.interpolate import CubicSpline

_WIDEST = 14.0  # largest range of standard normal values; a wider one has a probability below 1e-15
_NODES = 257  # of the integral over the deviation, in equal steps of its logarithm: the error is below 1e-8


def tail(q: np.ndarray, k: int, df: np.ndarray | float) -> np.ndarray:
    """Return the probability that the range of `k` means exceeds `q` standard errors with `df` degrees of freedom.

    `q` and `df` are broadcast.
    """
    q, df = np.broadcast_arrays(np.asarray(q, dtype=float), np.asarray(df, dtype=float))
    q, df = q[..., None], df[..., None]
    low, high = (np.log(2 * inverse(df / 2, 1e-10) / df) / 2 for inverse in (special.gammaincinv, special.gammainccinv))
    step = (high - low) / (_NODES - 1)
    deviation = low + step * np.arange(_NODES)  # logarithm of the deviation
    density = np.log(2) + df / 2 * np.log(df / 2) - special.gammaln(df / 2)
    density = np.exp(density + df * (deviation - np.exp(2 * deviation) / 2))
    beyond = _range_tail(k)(np.minimum(q * np.exp(deviation), _WIDEST))
    return np.clip((density * beyond).sum(-1) * step[..., 0], 0, 1)


@functools.cache
def quantile(k: int, level: float) -> Callable[[np.ndarray | float], np.ndarray]:
    """Return a function: degrees of freedom (at least 1) -> value that the range of `k` means exceeds with probability
    `level`. It interpolates between a hundred values."""
    inverse = np.linspace(1e-6, 1, 101)
    low, high = np.full(len(inverse), 0.1), np.full(len(inverse), 1e6)
    for _ in range(60):
        middle = np.sqrt(low * high)
        above = tail(middle, k, 1 / inverse) > level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    table = CubicSpline(inverse, np.log(middle))
    return lambda df: np.exp(table(1 / np.asarray(df, dtype=float)))


@functools.cache
def _range_tail(k: int) -> CubicSpline:
    """Return the probability that the range of `k` standard normal values exceeds w, as a function of w."""
    widths = np.linspace(0, _WIDEST, 561)
    largest, step = np.linspace(-9, 9, 451, retstep=True)
    density = np.exp(-(largest**2) / 2) / np.sqrt(2 * np.pi)
    within = (special.ndtr(largest) - special.ndtr(largest - widths[:, None])) ** (k - 1)
    return CubicSpline(widths, 1 - k * step * (within * density).sum(1))
