"""Of SciPy, loaded when a statistic is asked for: one seed has none, and the import takes a tenth of a second."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_NORMAL = 1.959963984540054  # what a standard normal value exceeds with probability 2.5 %


def t_quantile(df: "np.ndarray | float", share: float) -> "np.ndarray":
    """What Student's t stays below with this probability."""
    from scipy import special

    return special.stdtrit(df, share)


def f_tail(between: "np.ndarray | float", within: "np.ndarray | float", value: "np.ndarray | float") -> "np.ndarray":
    """How likely an F of so many degrees of freedom exceeds a value."""
    from scipy import special

    return special.fdtrc(between, within, value)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval (1927) of a share that was counted on `n` independent images.

    It has a width where the share is 0 or 1, and never leaves [0, 1].
    """
    square = _NORMAL**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _NORMAL / (1 + square / n) * math.sqrt(max(0.0, share * (1 - share)) / n + square / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
