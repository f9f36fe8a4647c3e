"""Folders of equal combinations, and what the report and `runner.compare` claim of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runner.compare.paired import judge, overall
from runner.report.results.tables import FEWEST
from runner.report.statistics.block_design import BlockDesign, layout, solve
from runner.report.statistics.effects import Model, adjusted, mean_weights
from runner.report.statistics.factors import Factor
from runner.report.statistics.multiple_comparisons import ALPHA, differences
from runner.report.statistics.unequal_spread import half_interval

SPREADS = ("equal", "quarter at 4", "one at 5")
LAYOUTS = {4: (2, 2), 8: (2, 4), 9: (3, 3), 12: (3, 4), 24: (4, 6), 48: (4, 12)}  # two factors
BLOCK = 3.0  # standard deviation of the seeds' effects, in those of the residual
EFFECT = 4.0  # true difference, in the same


@dataclass(frozen=True)
class Case:
    """A folder of runs to draw: `blocked` where all combinations ran the same seeds, `missing` where a third of them
    lacks some (one of three, two of five); `block`: deviation of the seeds' effects, none in differences by seed."""

    k: int
    seeds: int
    spread: str
    blocked: bool = True
    missing: bool = False
    block: float = BLOCK

    @property
    def deviations(self) -> np.ndarray:
        """Of each combination [k]."""
        deviations = np.ones(self.k)
        if self.spread == "quarter at 4":
            deviations[: max(1, self.k // 4)] = 4
        if self.spread == "one at 5":
            deviations[0] = 5
        return deviations

    @property
    def known(self) -> np.ndarray:
        """Which combination ran which seed [k, b]: without blocks each has seeds of its own."""
        known = np.ones((self.k, self.seeds), dtype=bool)
        if self.missing:
            lacking = [(i, (i + j) % self.seeds) for i in range(0, self.k, 3) for j in range(self.seeds // 2)]
            known[tuple(np.transpose(lacking))] = False
        if self.blocked:
            return known
        apart = np.eye(self.k, dtype=bool)[:, :, None] & known[:, None, :]
        apart = apart.reshape(self.k, -1)
        return apart[:, apart.any(0)]

    def draw(self, rng: np.random.Generator, draws: int, effect: float = 0.0) -> np.ndarray:
        """Return values [draws, k, b]; the last combination is better by `effect`."""
        known = self.known
        values = rng.normal(size=(draws, *known.shape)) * self.deviations[:, None]
        blocks = self.block * rng.normal(size=(draws, 1, known.shape[1]))
        values += blocks - blocks.mean(-1, keepdims=True) if self.blocked else 0.0
        values[:, -1] += effect
        return values


Measure = Callable[[Case, np.random.Generator, int], np.ndarray]  # one number a draw


def false_pair(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Any pair of equal combinations that the report calls distinguishable, of those with enough seeds."""
    enough = case.known.sum(1) >= FEWEST
    known = case.known[enough]
    used = known.any(0)
    fitted = solve(
        _layout(known[:, used].tobytes(), *known[:, used].shape), case.draw(rng, draws)[:, enough][..., used]
    )
    return differences(fitted, *np.triu_indices(len(known), 1)).is_significant.any(-1)


def found_pairs(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The share of the true differences to combinations of the common spread that the report finds."""
    fitted = solve(_plan(case), case.draw(rng, draws, EFFECT))
    others = np.flatnonzero(case.deviations[:-1] == 1)
    return differences(fitted, np.full(len(others), case.k - 1), others).is_significant.mean(-1)


def false_effect(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Any main effect or interaction with p below 5 %; none is given where a combination has too few seeds."""
    plan = _plan(case)
    if plan.counts.min() < FEWEST:
        return np.zeros(draws)
    values = case.draw(rng, draws)
    added = _added(case)
    return (adjusted(added, values[..., plan.known], solve(plan, values)) < ALPHA).any(-1)


def missed_mean(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """An interval of the mean of the first value of the first factor that lacks the true one, zero."""
    plan, values = _plan(case), case.draw(rng, draws)
    weights = _weights(case)
    return np.abs(values[..., plan.known] @ weights) > half_interval(weights, solve(plan, values), ALPHA)


def false_change(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Any combination that `runner.compare` calls changed between two equal sweeps."""
    return (judge(_with_gaps(case, case.draw(rng, draws))).p < ALPHA).any(-1)


def found_change(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The changed combination called so."""
    return judge(_with_gaps(case, case.draw(rng, draws, EFFECT))).p[..., -1] < ALPHA


def false_whole(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The mean over all combinations called changed."""
    wholes = (overall([dict(enumerate(row)) for row in one]) for one in case.draw(rng, draws).tolist())
    return np.array([whole is not None and whole.is_significant for whole in wholes])


def factors(k: int) -> list[Factor]:
    """Two factors whose product has `k` combinations."""
    codes = np.indices(LAYOUTS[k]).reshape(2, -1)
    return [
        Factor((name,), tuple(map(str, range(count))), code, count, None, False)
        for name, count, code in zip("ab", LAYOUTS[k], codes)
    ]


@functools.cache
def _layout(known: bytes, k: int, seeds: int) -> BlockDesign:
    return layout(np.frombuffer(known, dtype=bool).reshape(k, seeds))


def _plan(case: Case) -> BlockDesign:
    known = case.known
    return _layout(known.tobytes(), *known.shape)


@functools.cache
def _added(case: Case) -> list[tuple[tuple[int, ...], np.ndarray]]:
    return Model(factors(case.k), _plan(case)).added()


@functools.cache
def _weights(case: Case) -> np.ndarray:
    return mean_weights(factors(case.k), _plan(case))[0][0]


def _with_gaps(case: Case, values: np.ndarray) -> np.ndarray:
    return np.where(case.known, values, np.nan)
