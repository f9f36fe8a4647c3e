"""Quantiles and tail probabilities. SciPy is imported on the first call, because the import takes 0.1 s."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_NORMAL = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def t_quantile(df: "np.ndarray | float", share: float) -> "np.ndarray":
    """Return the quantile of Student's t distribution at probability `share`."""
    from scipy import special

    return special.stdtrit(df, share)


def f_tail(between: "np.ndarray | float", within: "np.ndarray | float", value: "np.ndarray | float") -> "np.ndarray":
    """Return the probability that F(between, within) exceeds `value`."""
    from scipy import special

    return special.fdtrc(between, within, value)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share counted on `n` independent images.

    It lies within [0, 1], and its width is positive even for a share of 0 or 1.
    """
    square = _NORMAL**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _NORMAL / (1 + square / n) * math.sqrt(max(0.0, share * (1 - share)) / n + square / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
