"""What each swept factor does: marginal means, two-factor interactions, shares of the variance explained.

Sums of squares are of type II (each main effect given all terms that do not contain it, each interaction given all
others), tested against the pooled residual of metric ~ combination + seed, and again with each combination's own
variance (the ANOVA-type statistic of Brunner, Dette and Munk 1997): the larger p counts, because combinations may
spread differently. Marginal means are least-squares means of the model with main effects and seeds: the plain means
wherever no run is missing.
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
MOST_COLUMNS = 300  # of the design with interactions: a least-squares fit of 1,000 runs then takes 0.1 s


@dataclass(frozen=True)
class Term:
    """A main effect (one factor) or an interaction (two). `share` is eta squared: its part of all variance.

    `p` is corrected for the number of terms (Holm); None without a residual to test against, or with fewer than
    `FEWEST` seeds of some combination. `f` is against the pooled residual.
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
    """A level's least-squares mean, and its 95 % interval, cut to [0, 1]; no `low` and `high` without a residual.

    `mean` is None where the runs that there are do not determine it.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Effects:
    """`terms` by share, empty where the factors do not form a design; `seed` and `residual` are shares too."""

    terms: list[Term]
    seed: float
    rest: float  # interactions of three and more factors (and of two, where they were too many to fit)
    residual: float
    fit: Fit
    balanced: bool
    interactions: bool


def effects(found: Sequence[Factor], cells: Sequence[Mapping[str, float]]) -> Effects:
    """`cells`: one mapping seed -> value a combination, as in `blocked.fit`; `found` are coded for the same rows."""
    values = table(cells)
    model = Model(found, layout(~np.isnan(values)))
    pooled, y = solve(model.layout, values), values[model.layout.known]
    total = float(((y - y.mean()) ** 2).sum())
    everything, without_seed = (_left(y, model.basis(model.blocks, seed)) for seed in (True, False))
    left = (pooled.deviation or 0.0) ** 2 * model.layout.df
    share = (lambda squares: max(0.0, squares) / total) if total else lambda squares: 0.0
    return Effects(
        terms=_terms(found, model, y, total, pooled),
        seed=share(without_seed - everything),
        rest=share(everything - left),
        residual=share(left),
        fit=pooled,
        balanced=model.layout.balanced and len(cells) == np.prod([len(factor.levels) for factor in found]),
        interactions=any(len(term) > 1 for term in model.blocks),
    )


class Model:
    """Main effects and two-factor interactions of a layout, as columns: `blocks` by the factors' numbers."""

    def __init__(self, found: Sequence[Factor], plan: BlockDesign) -> None:
        self.layout = plan
        mains = {(i,): np.eye(len(factor.levels))[factor.codes[plan.rows]] for i, factor in enumerate(found)}
        pairs = {(i, j): _products(mains[i,], mains[j,]) for i, j in itertools.combinations(range(len(found)), 2)}
        small = sum(block.shape[1] for block in (*mains.values(), *pairs.values())) <= MOST_COLUMNS
        self.blocks = mains | (pairs if small else {})

    def basis(self, terms: Iterable[tuple[int, ...]], seed: bool = True) -> np.ndarray:
        """Return orthonormal columns that span those of the model with these terms."""
        blocks = [_seeds(self.layout)] if seed else []
        blocks += [self.blocks[term] for term in terms]
        return _orthonormal(np.hstack([np.ones((len(self.layout.rows), 1)), *blocks]))

    def added(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """Return each term with orthonormal columns [n, df] of what it adds to all that do not contain it (type II)."""
        added = []
        for term, block in self.blocks.items():
            basis = self.basis(other for other in self.blocks if not set(term) <= set(other))
            columns = _orthonormal(block - basis @ (basis.T @ block))
            added += [(term, columns)] if columns.shape[1] else []
        return added


def adjusted(added: Sequence[tuple[tuple[int, ...], np.ndarray]], y: np.ndarray, pooled: Fit) -> np.ndarray:
    """Return the p values [..., terms] of y [..., n], corrected for the number of terms."""
    return holm(np.stack([term_p(columns, y, pooled) for _, columns in added], axis=-1))


def _terms(found: Sequence[Factor], model: Model, y: np.ndarray, total: float, pooled: Fit) -> list[Term]:
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
        Term(tuple(found[i] for i in term), columns.shape[1], square / total, *tests)
        for (term, columns), square, *tests in zip(added, squares, f, p)
    ]
    return sorted(terms, key=lambda term: -term.share)


def margins(found: Sequence[Factor], cells: Sequence[Mapping[str, float]]) -> list[list[Margin]]:
    """A list a factor, in the order of its levels; `cells` as in `effects`."""
    values = table(cells)
    pooled = solve(layout(~np.isnan(values)), values)
    y = values[pooled.layout.known]

    def margin(weights: np.ndarray | None) -> Margin:
        if weights is None:
            return Margin(None)
        mean = float(weights @ y)
        half = float(half_interval(weights, pooled, ALPHA)) if pooled.deviation else np.inf
        return Margin(mean, *np.clip([mean - half, mean + half], 0, 1).tolist()) if np.isfinite(half) else Margin(mean)

    return [[margin(weights) for weights in levels] for levels in mean_weights(found, pooled.layout)]


def mean_weights(found: Sequence[Factor], plan: BlockDesign) -> list[list[np.ndarray | None]]:
    """Return, for each level of each factor, the weights [n] of the values in its least-squares mean.

    None where the runs that there are do not determine it.
    """
    mains = [np.eye(len(factor.levels))[factor.codes[plan.rows]] for factor in found]
    blocks = [np.ones((len(plan.rows), 1)), _seeds(plan), *mains]
    design = np.hstack(blocks)
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-10, hermitian=True)
    project = inverse @ design.T @ design
    average = [np.full(block.shape[1], 1 / max(1, block.shape[1])) for block in blocks]

    def weights(level: np.ndarray) -> np.ndarray | None:
        return design @ (inverse @ level) if np.allclose(level @ project, level, atol=1e-6) else None

    return [
        [weights(np.concatenate([*average[: i + 2], level, *average[i + 3 :]])) for level in np.eye(len(one.levels))]
        for i, one in enumerate(found)
    ]


def _left(y: np.ndarray, basis: np.ndarray) -> float:
    """Return the residual sum of squares."""
    return float(((y - basis @ (basis.T @ y)) ** 2).sum())


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-9 * np.sqrt(len(columns))]


def _seeds(plan: BlockDesign) -> np.ndarray:
    """Return the seeds' columns [n, b]; none where seeds are no blocks."""
    columns = np.eye(plan.known.shape[1])[plan.seeds]
    return columns if plan.blocked else columns[:, :0]


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one[:, :, None] * other[:, None, :]).reshape(len(one), -1)
