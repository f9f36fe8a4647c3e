"""Matplotlib figures as arrays."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pixels(figure: "Figure") -> np.ndarray:
    """Render a figure to uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow: takes a second

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
