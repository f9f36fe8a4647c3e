"""Least squares by hand, for the statistics of the report."""

import numpy as np


def dense(found):
    """metric ~ combination + seed by NumPy's least squares: means over all seeds, covariance / sigma², sigma, df."""
    seeds = list(dict.fromkeys(seed for cell in found for seed in cell))
    rows = [(i, seeds.index(seed), value) for i, cell in enumerate(found) for seed, value in cell.items()]
    design = np.array([[*np.eye(len(found))[i], *np.eye(len(seeds))[j][1:]] for i, j, _ in rows])
    y = np.array([value for *_, value in rows])
    solution = np.linalg.lstsq(design, y)[0]
    df = len(y) - np.linalg.matrix_rank(design)
    to_means = np.hstack([np.eye(len(found)), np.full((len(found), len(seeds) - 1), 1 / len(seeds))])
    covariance = to_means @ np.linalg.pinv(design.T @ design) @ to_means.T
    return to_means @ solution, covariance, (((y - design @ solution) ** 2).sum() / df) ** 0.5, df
