"""Effects of swept factors: marginal means, two-factor interactions, shares of the variance explained.

Sums of squares are of type II: each main effect given all terms that do not contain it, each interaction given all
others. They are tested against the pooled residual of metric ~ combination + seed, and with each combination's own
variance (the ANOVA-type statistic of Brunner, Dette and Munk 1997). The larger p counts, because combinations may
have different variances. Marginal means are least-squares means of the model with main effects and seeds; they equal
the plain means if no run is missing.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.results.tables import FEWEST
from runner.report.statistics.block_design import BlockDesign, Fit, layout, solve, table
from runner.report.statistics.factors import Factor
from runner.report.statistics.unequal_spread import half_interval, holm, term_p

ALPHA = 0.05
MOST_COLUMNS = 300  # of a design with interactions: a least-squares fit of 1,000 runs then takes 0.1 s


@dataclass(frozen=True)
class Term:
    """Term: a main effect (one factor) or an interaction (two). `share` is eta squared, its part of the variance.

    `p` is corrected for the number of terms (Holm); None without a residual to test against, or if a combination has
    fewer than `FEWEST` seeds. `f` is the F statistic against the pooled residual.
    """

    factors: tuple[Factor, ...]
    df: int
    share: float
    f: float | None
    p: float | None

    @property
    def title(self) -> str:
        return " × ".join(factor.title for factor in self.factors)


@dataclass(frozen=True)
class Margin:
    """Margin: a level's least-squares mean and its 95 % interval, cut to [0, 1].

    `mean` is None if the runs do not determine it; `low` and `high` are None without a residual.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Effects:
    """Effects: `terms` by share, empty if there is no design; `seed`, `rest` and `residual` are shares too."""

    terms: list[Term]
    seed: float
    rest: float  # interactions of three and more factors (and of two, if there are too many to fit)
    residual: float
    fit: Fit
    balanced: bool
    interactions: bool


def effects(swept: Sequence[Factor], cells: Sequence[Mapping[str, float]]) -> Effects:
    """Estimate effects from `cells`, a mapping seed -> value for each combination; `swept` has the same rows."""
    values = table(cells)
    model = Model(swept, layout(~np.isnan(values)))
    pooled, y = solve(model.layout, values), values[model.layout.known]
    total = float(((y - y.mean()) ** 2).sum())
    full, without_seed = (_residual_squares(y, model.basis(model.blocks, seed)) for seed in (True, False))
    residual = (pooled.deviation or 0.0) ** 2 * model.layout.df
    share = (lambda squares: max(0.0, squares) / total) if total else lambda squares: 0.0
    return Effects(
        terms=_terms(swept, model, y, total, pooled),
        seed=share(without_seed - full),
        rest=share(full - residual),
        residual=share(residual),
        fit=pooled,
        balanced=model.layout.balanced and len(cells) == np.prod([len(factor.levels) for factor in swept]),
        interactions=any(len(term) > 1 for term in model.blocks),
    )


class Model:
    """Model: the design matrix of main effects and two-factor interactions; `blocks`: factor indices -> columns."""

    def __init__(self, swept: Sequence[Factor], plan: BlockDesign) -> None:
        self.layout = plan
        mains = {(i,): np.eye(len(factor.levels))[factor.codes[plan.rows]] for i, factor in enumerate(swept)}
        pairs = {(i, j): _products(mains[i,], mains[j,]) for i, j in itertools.combinations(range(len(swept)), 2)}
        is_small = sum(block.shape[1] for block in (*mains.values(), *pairs.values())) <= MOST_COLUMNS
        self.blocks = mains | (pairs if is_small else {})

    def basis(self, terms: Iterable[tuple[int, ...]], seed: bool = True) -> np.ndarray:
        """Return an orthonormal basis of the columns of the model with `terms`."""
        blocks = [_seeds(self.layout)] if seed else []
        blocks += [self.blocks[term] for term in terms]
        return _orthonormal(np.hstack([np.ones((len(self.layout.rows), 1)), *blocks]))

    def added(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """Return each term with an orthonormal basis [n, df] of its part beyond all terms without it (type II)."""
        added = []
        for term, block in self.blocks.items():
            basis = self.basis(candidate for candidate in self.blocks if not set(term) <= set(candidate))
            columns = _orthonormal(block - basis @ (basis.T @ block))
            added += [(term, columns)] if columns.shape[1] else []
        return added


def adjusted(added: Sequence[tuple[tuple[int, ...], np.ndarray]], y: np.ndarray, pooled: Fit) -> np.ndarray:
    """Return the p values [..., terms] of y [..., n], corrected for the number of terms (Holm)."""
    return holm(np.stack([term_p(columns, y, pooled) for _, columns in added], axis=-1))


def _terms(swept: Sequence[Factor], model: Model, y: np.ndarray, total: float, pooled: Fit) -> list[Term]:
    added = model.added() if total else []
    if not added:
        return []
    squares = [float(((y @ columns) ** 2).sum()) for _, columns in added]
    f: list[float | None] = [None] * len(added)
    p: list[float | None] = [None] * len(added)
    if pooled.deviation:
        f = [square / columns.shape[1] / pooled.deviation**2 for square, (_, columns) in zip(squares, added)]
        if pooled.counts.min() >= FEWEST:
            p = adjusted(added, y, pooled).tolist()
    terms = [
        Term(tuple(swept[i] for i in term), columns.shape[1], square / total, *tests)
        for (term, columns), square, *tests in zip(added, squares, f, p)
    ]
    return sorted(terms, key=lambda term: -term.share)


def margins(swept: Sequence[Factor], cells: Sequence[Mapping[str, float]]) -> list[list[Margin]]:
    """Return a list for each factor, with the margins of its levels in order; `cells` as in `effects`."""
    values = table(cells)
    pooled = solve(layout(~np.isnan(values)), values)
    y = values[pooled.layout.known]

    def margin(weights: np.ndarray | None) -> Margin:
        if weights is None:
            return Margin(None)
        mean = float(weights @ y)
        half = float(half_interval(weights, pooled, ALPHA)) if pooled.deviation else np.inf
        return Margin(mean, *np.clip([mean - half, mean + half], 0, 1).tolist()) if np.isfinite(half) else Margin(mean)

    return [[margin(weights) for weights in levels] for levels in mean_weights(swept, pooled.layout)]


def mean_weights(swept: Sequence[Factor], plan: BlockDesign) -> list[list[np.ndarray | None]]:
    """Return, for each level of each factor, the weights [n] of the values in its least-squares mean.

    None if the runs do not determine it.
    """
    mains = [np.eye(len(factor.levels))[factor.codes[plan.rows]] for factor in swept]
    blocks = [np.ones((len(plan.rows), 1)), _seeds(plan), *mains]
    design = np.hstack(blocks)
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-10, hermitian=True)
    project = inverse @ design.T @ design
    average = [np.full(block.shape[1], 1 / max(1, block.shape[1])) for block in blocks]

    def weights(level: np.ndarray) -> np.ndarray | None:
        return design @ (inverse @ level) if np.allclose(level @ project, level, atol=1e-6) else None

    return [
        [weights(np.concatenate([*average[: i + 2], level, *average[i + 3 :]])) for level in np.eye(len(factor.levels))]
        for i, factor in enumerate(swept)
    ]


def _residual_squares(y: np.ndarray, basis: np.ndarray) -> float:
    """Return the residual sum of squares."""
    return float(((y - basis @ (basis.T @ y)) ** 2).sum())


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    vectors, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors[:, sizes > 1e-9 * np.sqrt(len(columns))]


def _seeds(plan: BlockDesign) -> np.ndarray:
    """Return the seeds' columns [n, b]; no columns if seeds are not blocks."""
    columns = np.eye(plan.known.shape[1])[plan.seeds]
    return columns if plan.blocked else columns[:, :0]


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first[:, :, None] * second[:, None, :]).reshape(len(first), -1)
