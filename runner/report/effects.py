"""What each swept factor does: marginal means, two-factor interactions, shares of the variance explained.

Sums of squares are of type II (each main effect given all terms that do not contain it, each interaction given all
others), tested against the pooled residual of metric ~ combination + seed, and again with each combination's own
variance (the ANOVA-type statistic of Brunner, Dette and Munk 1997): the larger p counts, because combinations may
spread differently. Marginal means are least-squares means of the model with main effects and seeds: the plain means
wherever no run is missing.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.blocked import Fit, fit
from runner.report.distributions import f_tail, t_quantile
from runner.report.factors import Factor

ALPHA = 0.05
FEWEST = 3  # seeds: with two, a residual says too little for a p value
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
    pooled = fit(cells)
    y, rows, seed = _observed(cells, pooled)
    mains = {(i,): _dummies(factor.codes[rows], len(factor.levels)) for i, factor in enumerate(found)}
    pairs = {(i, j): _products(mains[i,], mains[j,]) for i, j in itertools.combinations(range(len(found)), 2)}
    small = sum(block.shape[1] for block in (*mains.values(), *pairs.values())) <= MOST_COLUMNS
    blocks = mains | (pairs if small else {})
    model = _Model(y, seed, blocks)
    total = float(((y - y.mean()) ** 2).sum())
    terms = _terms(found, model, total, pooled, rows)
    everything, _ = model.fit(blocks)
    without_seed, _ = model.fit(blocks, seed=False)
    left = (pooled.deviation or 0.0) ** 2 * pooled.df
    share = (lambda squares: max(0.0, squares) / total) if total else lambda squares: 0.0
    return Effects(
        terms=terms,
        seed=share(without_seed - everything),
        rest=share(everything - left),
        residual=share(left),
        fit=pooled,
        balanced=_balanced(found, rows, pooled),
        interactions=small and len(found) > 1,
    )


class _Model:
    def __init__(self, y: np.ndarray, seed: np.ndarray, blocks: Mapping[tuple[int, ...], np.ndarray]) -> None:
        self._y, self._seed, self._blocks = y, seed, blocks

    def fit(self, terms: Sequence[tuple[int, ...]], seed: bool = True) -> tuple[float, int]:
        """Residual sum of squares, and the rank."""
        basis = self._basis(terms, seed)
        return float(((self._y - basis @ (basis.T @ self._y)) ** 2).sum()), basis.shape[1]

    def _basis(self, terms: Sequence[tuple[int, ...]], seed: bool = True) -> np.ndarray:
        """Orthonormal columns that span the model's."""
        parts = [np.ones((len(self._y), 1)), *([self._seed] if seed else []), *(self._blocks[term] for term in terms)]
        return _orthonormal(np.hstack(parts))

    def terms(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """Return each term with orthonormal columns [n, df] of what it adds to all that do not contain it (type II)."""
        added = []
        for term, block in self._blocks.items():
            basis = self._basis([other for other in self._blocks if not set(term) <= set(other)])
            added.append((term, _orthonormal(block - basis @ (basis.T @ block))))
        return added

    def squares(self, columns: np.ndarray) -> float:
        """Return the sum of squares that orthonormal columns explain."""
        return float(((columns.T @ self._y) ** 2).sum())


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-9 * np.sqrt(len(columns))]


def _terms(found: Sequence[Factor], model: _Model, total: float, pooled: Fit, rows: np.ndarray) -> list[Term]:
    """`rows` [n]: the combination of each value."""
    if not total:
        return []
    known = [(term, columns, model.squares(columns)) for term, columns in model.terms() if columns.shape[1]]
    f: list[float | None] = [None] * len(known)
    p: list[float | None] = [None] * len(known)
    if pooled.deviation:
        f = [squares / columns.shape[1] / pooled.deviation**2 for _, columns, squares in known]
        if pooled.counts.min() >= FEWEST:
            p = holm([_p(columns, squares, pooled, rows) for _, columns, squares in known])
    terms = [
        Term(tuple(found[i] for i in term), columns.shape[1], max(0.0, squares) / total, *tests)
        for (term, columns, squares), *tests in zip(known, f, p)
    ]
    return sorted(terms, key=lambda term: -term.share)


def _p(columns: np.ndarray, squares: float, pooled: Fit, rows: np.ndarray) -> float:
    """Return the larger of two p values: F against the pooled residual, and against the combinations' own variances.

    With own variances v, the term's squares are expected to be the trace of U' diag(v) U without an effect, U being its
    orthonormal columns; degrees of freedom are matched by two moments (Box 1954), those of the estimated trace too.
    """
    count = columns.shape[1]
    by_pooled = f_tail(count, pooled.df, squares / count / pooled.deviation**2)
    variances = np.maximum(pooled.variances, 0)
    weight = np.bincount(rows, (columns**2).sum(1), len(variances))
    parts = weight * variances
    expected = max(parts.sum(), pooled.least)
    factors = _doubled(parts)
    spread = columns.T @ (columns * (factors * variances)[rows, None])
    between = (factors @ parts) ** 2 / max((spread**2).sum(), pooled.least**2)
    within = _freedom(factors * parts, pooled)
    by_own = f_tail(min(max(between, 1.0), count), within, squares / expected)
    return max(by_pooled, by_own) if np.isfinite(by_own) else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): the chance of any false alarm among them stays below the level."""
    order = np.argsort(p, kind="stable")
    steps = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.asarray(p)[order] * steps))
    return adjusted.tolist()


def margins(found: Sequence[Factor], cells: Sequence[Mapping[str, float]]) -> list[list[Margin]]:
    """A list a factor, in the order of its levels; `cells` as in `effects`."""
    pooled = fit(cells)
    y, rows, seed = _observed(cells, pooled)
    mains = [_dummies(factor.codes[rows], len(factor.levels)) for factor in found]
    blocks = [np.ones((len(y), 1)), seed, *mains]
    design = np.hstack(blocks)
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-10, hermitian=True)
    solution = inverse @ design.T @ y
    project = inverse @ design.T @ design
    average = [np.full(block.shape[1], 1 / max(1, block.shape[1])) for block in blocks]

    def margin(weight: np.ndarray) -> Margin:
        if not np.allclose(weight @ project, weight, atol=1e-6):
            return Margin(None)
        mean, half = float(weight @ solution), _half(design @ (inverse @ weight), pooled, rows)
        return Margin(mean) if half is None else Margin(mean, *np.clip([mean - half, mean + half], 0, 1).tolist())

    return [
        [margin(np.concatenate([*average[: i + 2], level, *average[i + 3 :]])) for level in np.eye(len(one.levels))]
        for i, one in enumerate(found)
    ]


def _freedom(parts: np.ndarray, pooled: Fit) -> float:
    """Return the degrees of freedom of the sum of `parts`, what each combination adds to a variance (Satterthwaite)."""
    return float(max(parts.sum() ** 2 / max(parts @ pooled.noise @ parts, pooled.least**2), 1.0))


def _doubled(parts: np.ndarray) -> np.ndarray:
    """Return what to multiply variances by where degrees of freedom are counted: 2 for the largest of `parts`, else 1.

    Where a single combination spreads widely and its variance comes out small by chance, the plain approximations have
    6 to 8 % false alarms in place of 5; with this, none of the cases tried is above it.
    """
    return np.where(np.arange(len(parts)) == parts.argmax(), 2.0, 1.0)


def _half(weights: np.ndarray, pooled: Fit, rows: np.ndarray) -> float | None:
    """Return half the 95 % interval of the sum `weights` @ values: the wider one of the pooled residual and of the
    combinations' own variances. None without a residual, or where a variance is not known."""
    if not pooled.deviation or np.isnan(pooled.variances).any():
        return None
    by_pooled = t_quantile(pooled.df, 1 - ALPHA / 2) * pooled.deviation * float(np.sqrt((weights**2).sum()))
    parts = np.bincount(rows, weights**2, len(pooled.counts)) * np.maximum(pooled.variances, 0)
    square = max(parts.sum(), pooled.least)
    df = _freedom(_doubled(parts) * parts, pooled)
    return max(by_pooled, t_quantile(df, 1 - ALPHA / 2) * float(np.sqrt(square)))


def _observed(cells: Sequence[Mapping[str, float]], pooled: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [n], the combination of each [n], the seeds' columns [n, b] (none where seeds are no blocks)."""
    rows = np.array([i for i, cell in enumerate(cells) for _ in cell])
    y = np.array([value for cell in cells for value in cell.values()])
    names = {seed: i for i, seed in enumerate(dict.fromkeys(seed for cell in cells for seed in cell))}
    seed = _dummies(np.array([names[seed] for cell in cells for seed in cell]), len(names))
    return y, rows, seed if pooled.blocked else seed[:, :0]


def _balanced(found: Sequence[Factor], rows: np.ndarray, pooled: Fit) -> bool:
    """Whether all combinations of all levels are there, with all seeds."""
    return pooled.balanced and len(np.unique(rows)) == np.prod([len(factor.levels) for factor in found])


def _dummies(codes: np.ndarray, levels: int) -> np.ndarray:
    return np.eye(levels)[codes]


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one[:, :, None] * other[:, None, :]).reshape(len(one), -1)
