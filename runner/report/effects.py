"""What each swept factor does: marginal means, two-factor interactions, shares of the variance explained.

Sums of squares are of type II (each main effect given all terms that do not contain it, each interaction given all
others), tested against the pooled residual of metric ~ combination + seed. Marginal means are least-squares means
of the model with main effects and seeds: the plain means wherever no run is missing.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.report.blocked import Fit, fit
from runner.report.distributions import f_tail, t_quantile
from runner.report.factors import Factor

ALPHA = 0.05
MOST_COLUMNS = 300  # of the design with interactions: a least-squares fit of 1,000 runs then takes 0.1 s


@dataclass(frozen=True)
class Term:
    """A main effect (one factor) or an interaction (two). `share` is eta squared: its part of all variance.

    `p` is corrected for the number of terms (Holm); None without a residual to test against.
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
    """A level's least-squares mean; `half` is half its 95 % interval, None without a residual.

    `mean` is None where the runs that there are do not determine it.
    """

    mean: float | None
    half: float | None


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
    error = None if not pooled.deviation else pooled.deviation**2
    terms = _terms(found, model, total, error, pooled.df)
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
        parts = [np.ones((len(self._y), 1)), *([self._seed] if seed else []), *(self._blocks[term] for term in terms)]
        design = np.hstack(parts)
        solution, _, rank, _ = np.linalg.lstsq(design, self._y, rcond=1e-10)
        return float(((self._y - design @ solution) ** 2).sum()), int(rank)

    def terms(self) -> list[tuple[tuple[int, ...], float, int]]:
        """(term, its type II sum of squares, its degrees of freedom)"""
        found = []
        for term in self._blocks:
            others = [other for other in self._blocks if not set(term) <= set(other)]
            (without, rank), (with_it, larger) = self.fit(others), self.fit([*others, term])
            found.append((term, without - with_it, larger - rank))
        return found


def _terms(found: Sequence[Factor], model: _Model, total: float, error: float | None, df: int) -> list[Term]:
    if not total:
        return []
    rows = [row for row in model.terms() if row[2] > 0]
    f = [squares / count / error if error else None for _, squares, count in rows]
    p = holm([f_tail(row[2], df, value) for value, row in zip(f, rows)]) if error else [None] * len(rows)
    terms = [
        Term(tuple(found[i] for i in term), count, max(0.0, squares) / total, *tested)
        for (term, squares, count), *tested in zip(rows, f, p)
    ]
    return sorted(terms, key=lambda term: -term.share)


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
    factor = t_quantile(pooled.df, 1 - ALPHA / 2) if pooled.deviation else None

    def margin(weight: np.ndarray) -> Margin:
        if not np.allclose(weight @ project, weight, atol=1e-6):
            return Margin(None, None)
        half = None if factor is None else float(factor * pooled.deviation * (weight @ inverse @ weight) ** 0.5)
        return Margin(float(weight @ solution), half)

    return [
        [margin(np.concatenate([*average[: i + 2], level, *average[i + 3 :]])) for level in np.eye(len(one.levels))]
        for i, one in enumerate(found)
    ]


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
