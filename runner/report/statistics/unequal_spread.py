"""Tests and intervals for combinations with unequal variances over the seeds.

Each is the more cautious one of two: with the pooled residual, and with each combination's own variance. All take
values with leading dimensions, as `runner.report.statistics.block_design` does.
"""

import numpy as np

from runner.report.statistics.block_design import Fit
from runner.report.statistics.distributions import f_tail, t_quantile


def term_p(columns: np.ndarray, y: np.ndarray, fit: Fit) -> np.ndarray:
    """Return the p value [...] of a term of the model: the larger one of two F tests.

    columns: an orthonormal basis [n, df] of the term's part of the model. y: the values [..., n] of `fit`.

    One test is against the pooled residual. The other uses the combinations' own variances v. Without an effect, the
    expected squares of the term are the trace of U' diag(v) U, where U are the columns. The degrees of freedom of the
    squares and of the estimated trace are matched by two moments (Box 1954; the ANOVA-type statistic of Brunner, Dette
    and Munk 1997). p is 1 if a variance is unknown.
    """
    rows, count = fit.layout.rows, columns.shape[1]
    squares = ((y @ columns) ** 2).sum(-1)
    by_pooled = f_tail(count, fit.layout.df, squares / count / np.square(fit.deviation))
    variances = np.maximum(np.nan_to_num(fit.variances), 0)
    parts = np.bincount(rows, (columns**2).sum(1), variances.shape[-1]) * variances
    doubled = _doubled(parts)
    spread = (columns.T * (doubled * variances)[..., None, rows]) @ columns
    between = (doubled * parts).sum(-1) ** 2 / np.maximum((spread**2).sum((-2, -1)), fit.least**2)
    within = _freedom(doubled * parts, fit)
    by_own = f_tail(np.clip(between, 1, count), within, squares / np.maximum(parts.sum(-1), fit.least))
    return np.where(np.isnan(fit.variances).any(-1), 1.0, np.maximum(by_pooled, by_own))


def half_interval(weights: np.ndarray, fit: Fit, level: float) -> np.ndarray:
    """Return half the width [...] of the confidence interval of `weights` [n] @ y with error probability `level`.

    It is infinite if a variance is unknown.
    """
    rows = fit.layout.rows
    by_pooled = t_quantile(fit.layout.df, 1 - level / 2) * np.asarray(fit.deviation) * np.sqrt((weights**2).sum())
    variances = np.maximum(np.nan_to_num(fit.variances), 0)
    parts = np.bincount(rows, weights**2, variances.shape[-1]) * variances
    df = _freedom(_doubled(parts) * parts, fit)
    by_own = t_quantile(df, 1 - level / 2) * np.sqrt(parts.sum(-1))
    return np.where(np.isnan(fit.variances).any(-1), np.inf, np.maximum(by_pooled, by_own))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted along the last axis (Holm 1979), which controls the family-wise error rate."""
    p = np.asarray(p)
    order = np.argsort(p, axis=-1, kind="stable")
    steps = np.arange(p.shape[-1], 0, -1)
    raised = np.minimum(1, np.maximum.accumulate(np.take_along_axis(p, order, -1) * steps, axis=-1))
    adjusted = np.empty_like(raised)
    np.put_along_axis(adjusted, order, raised, -1)
    return adjusted


def _freedom(parts: np.ndarray, fit: Fit) -> np.ndarray:
    """Return the degrees of freedom of a variance, the sum of `parts` [..., k] of the combinations (Satterthwaite)."""
    noise = ((parts @ fit.layout.noise) * parts).sum(-1)
    return np.maximum(parts.sum(-1) ** 2 / np.maximum(noise, fit.least**2), 1.0)


def _doubled(parts: np.ndarray) -> np.ndarray:
    """Return the factors of variances in degrees of freedom: 2 for the largest of `parts`, else 1.

    Without them there are 6 to 8 % false alarms instead of 5, if a single combination has a large variance and its
    estimate is small by chance. With them, none of the cases tried is above 5 %.
    """
    return np.where(np.arange(parts.shape[-1]) == parts.argmax(-1)[..., None], 2.0, 1.0)
