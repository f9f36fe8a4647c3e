"""How often the report and `runner.compare` claim a difference where there is none, and how often they find one.

    python -m benchmarks.false_alarms [--draws 2000] [--write]

Draws accuracies of equal combinations, asks the report's own functions, and prints the tables of docs/report.md
(`--write` puts them there). A cell of false alarms is the share of draws with at least one. Ends with 1 where one is
above 5 % by a one-sided binomial test at 1 %. One CPU core, a few minutes.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from runner.compare.paired import judge, overall
from runner.report.best import ALPHA, FEWEST, differences
from runner.report.blocked import Layout, layout, solve
from runner.report.effects import Model, adjusted, mean_weights
from runner.report.factors import Factor
from runner.report.unequal import half_interval

COUNTS = (4, 8, 9, 12, 24, 48)
SEEDS = (3, 5)
SPREADS = ("equal", "quarter at 4", "one at 5")
LAYOUTS = {4: (2, 2), 8: (2, 4), 9: (3, 3), 12: (3, 4), 24: (4, 6), 48: (4, 12)}  # two factors
BLOCK = 3.0  # standard deviation of the seeds' effects, in those of the residual
EFFECT = 4.0  # true difference, in the same
CHUNK = 250  # draws at once
PAGE = Path(__file__).parent.parent / "docs" / "report.md"
MARKS = "<!-- benchmarks/false_alarms.py writes these tables -->", "<!-- to here -->"


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
    return differences(fitted, *np.triu_indices(len(known), 1)).told.any(-1)


def found_pairs(case: Case, rng: np.random.Generator, draws: int) -> np.ndarray:
    """The share of the true differences to combinations of the common spread that the report finds."""
    fitted = solve(_plan(case), case.draw(rng, draws, EFFECT))
    others = np.flatnonzero(case.deviations[:-1] == 1)
    return differences(fitted, np.full(len(others), case.k - 1), others).told.mean(-1)


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
    return np.array([whole is not None and whole.told for whole in wholes])


def factors(k: int) -> list[Factor]:
    """Two factors whose product has `k` combinations."""
    codes = np.indices(LAYOUTS[k]).reshape(2, -1)
    return [
        Factor((name,), tuple(map(str, range(count))), code, count, None, False)
        for name, count, code in zip("ab", LAYOUTS[k], codes)
    ]


@functools.cache
def _layout(known: bytes, k: int, seeds: int) -> Layout:
    return layout(np.frombuffer(known, dtype=bool).reshape(k, seeds))


def _plan(case: Case) -> Layout:
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


@dataclass(frozen=True)
class Column:
    """A column of a table: `measure` of the case with these `changes`; an alarm is held to `ALPHA`."""

    title: str
    measure: Measure
    changes: dict[str, object]
    alarm: bool = True


APART, GAPS, PAIRED = {"blocked": False}, {"missing": True}, {"block": 0.0}
PAIRS = (
    Column("blocked", false_pair, {}),
    Column("not blocked", false_pair, APART),
    Column("blocked, seeds missing", false_pair, GAPS),
    Column("not blocked, seeds missing", false_pair, APART | GAPS),
    Column("blocked: found", found_pairs, {}, alarm=False),
    Column("not blocked: found", found_pairs, APART, alarm=False),
)
OTHERS = (
    Column("factors, blocked", false_effect, {}),
    Column("factors, not blocked", false_effect, APART),
    Column("factors, seeds missing", false_effect, GAPS),
    Column("interval misses", missed_mean, {}),
    Column("interval misses, not blocked", missed_mean, APART),
    Column("interval misses, seeds missing", missed_mean, GAPS),
    Column("compare", false_change, PAIRED),
    Column("compare, seeds missing", false_change, PAIRED | GAPS),
    Column("compare: found", found_change, PAIRED, alarm=False),
    Column("compare: over all", false_whole, PAIRED),
)


def rows(columns: tuple[Column, ...], draws: int) -> Iterator[tuple[Case, list[float]]]:
    """Yield each case of the table with its rates."""
    for seeds in SEEDS:
        for spread in SPREADS:
            for k in COUNTS:
                case = Case(k, seeds, spread)
                yield case, [rate(column.measure, replace(case, **column.changes), draws) for column in columns]


def rate(measure: Measure, case: Case, draws: int) -> float:
    """Return the mean of a measure over the draws, which repeat themselves."""
    place = SPREADS.index(case.spread)
    rng = np.random.default_rng([case.k, case.seeds, place, 2 * case.blocked + case.missing])
    sizes = [min(CHUNK, draws - start) for start in range(0, draws, CHUNK)]
    return float(np.concatenate([measure(case, rng, size) for size in sizes]).mean())


def highest(draws: int) -> float:
    """Return the largest rate that does not contradict `ALPHA` by a one-sided binomial test at 1 %."""
    return float(stats.binom.isf(0.01, draws, ALPHA)) / draws


def table(columns: tuple[Column, ...], results: list[tuple[Case, list[float]]]) -> str:
    """Return a Markdown table of percents."""
    head = ["seeds", "spread", "combinations", *(column.title for column in columns)]
    lines = [head, ["---"] * 3 + ["---:"] * len(columns)]
    lines += [
        [str(case.seeds), case.spread, str(case.k), *(f"{100 * value:.1f}" for value in values)]
        for case, values in results
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Print the tables; 1 where a rate of false alarms is too high."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_alarms", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="of each cell")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/report.md")
    options = parser.parse_args(argv)
    bound, parts, above = highest(options.draws), [], []
    for columns in (PAIRS, OTHERS):
        results = list(rows(columns, options.draws))
        parts.append(table(columns, results))
        sys.stdout.write(f"{parts[-1]}\n\n")
        sys.stdout.flush()
        above += [
            f"{case.k} combinations, {case.seeds} seeds, {case.spread}, {column.title}: {value:.4f}"
            for case, values in results
            for column, value in zip(columns, values)
            if column.alarm and value > bound
        ]
    sys.stdout.write(f"highest rate allowed: {bound:.4f}; above it: {'; '.join(above) or 'none'}\n")
    if options.write:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        text = f"\nPairs:\n\n{parts[0]}\n\nOther claims:\n\n{parts[1]}\n"
        PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
