"""How often the report and `runner.compare` claim a difference where there is none, and how often they find one.

    python -m benchmarks.false_alarms [--draws 2000] [--write]

Draws accuracies of equal combinations, asks the report's own functions, and prints the tables of docs/report.md
(`--write` puts them there). A cell of false alarms is the share of draws with at least one. Ends with 1 where one is
above 5 % by a one-sided binomial test at 1 %. One CPU core, minutes.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from runner.compare.paired import overall, tests
from runner.report.best import ALPHA, FEWEST, differences
from runner.report.blocked import fit
from runner.report.effects import effects, margins
from runner.report.factors import Factor

COUNTS = (4, 8, 9, 12, 24, 48)
SEEDS = (3, 5)
SPREADS = ("equal", "quarter at 4", "one at 5")
LAYOUTS = {4: (2, 2), 8: (2, 4), 9: (3, 3), 12: (3, 4), 24: (4, 6), 48: (4, 12)}  # two factors
BLOCK = 3.0  # standard deviation of the seeds' effects, in those of the residual
EFFECT = 4.0  # true difference, in the same
PAGE = Path(__file__).parent.parent / "docs" / "report.md"
MARKS = "<!-- benchmarks/false_alarms.py writes these tables -->", "<!-- to here -->"

Cells = list[dict[str, float]]


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
            deviations[: self.k // 4] = 4
        if self.spread == "one at 5":
            deviations[0] = 5
        return deviations

    def draw(self, rng: np.random.Generator, effect: float = 0.0) -> Cells:
        """Return a mapping seed -> accuracy a combination; the last one is better by `effect`."""
        values = rng.normal(size=(self.k, self.seeds)) * self.deviations[:, None]
        if self.blocked:
            blocks = self.block * rng.normal(size=self.seeds)
            values += blocks - blocks.mean()
        values[-1] += effect
        lacking = {(i, (i + j) % self.seeds) for i in range(0, self.k, 3) for j in range(self.seeds // 2)}
        name: Callable[[int, int], str] = (lambda i, j: f"{j}") if self.blocked else (lambda i, j: f"{i}-{j}")
        return [
            {name(i, j): value for j, value in enumerate(row) if not (self.missing and (i, j) in lacking)}
            for i, row in enumerate(values.tolist())
        ]


def false_pair(case: Case, rng: np.random.Generator) -> bool:
    """Any pair of equal combinations that the report calls distinguishable, of those with enough seeds."""
    fitted = fit([cell for cell in case.draw(rng) if len(cell) >= FEWEST])
    return bool(differences(fitted, *np.triu_indices(len(fitted.means), 1)).told.any())


def found_pairs(case: Case, rng: np.random.Generator) -> float:
    """The share of the true differences to combinations of the common spread that the report finds."""
    fitted = fit(case.draw(rng, EFFECT))
    others = np.flatnonzero(case.deviations[:-1] == 1)
    return float(differences(fitted, np.full(len(others), case.k - 1), others).told.mean())


def false_effect(case: Case, rng: np.random.Generator) -> bool:
    """Any main effect or interaction with p below 5 %."""
    terms = effects(factors(case.k), case.draw(rng)).terms
    return any(term.p is not None and term.p < ALPHA for term in terms)


def missed_mean(case: Case, rng: np.random.Generator) -> bool:
    """An interval of the first value of the first factor that lacks the true mean, which is 1/2 here."""
    cells = [{seed: 0.5 + value / 1000 for seed, value in cell.items()} for cell in case.draw(rng)]
    margin = margins(factors(case.k), cells)[0][0]
    return margin.low is not None and not margin.low <= 0.5 <= margin.high


def false_change(case: Case, rng: np.random.Generator) -> bool:
    """Any combination that `runner.compare` calls changed between two equal sweeps."""
    return bool((tests(case.draw(rng)).p < ALPHA).any())


def found_change(case: Case, rng: np.random.Generator) -> bool:
    """The changed combination called so."""
    return bool(tests(case.draw(rng, EFFECT)).p[-1] < ALPHA)


def false_whole(case: Case, rng: np.random.Generator) -> bool:
    """The mean over all combinations called changed."""
    whole = overall(case.draw(rng))
    return whole is not None and whole.told


def factors(k: int) -> list[Factor]:
    """Two factors whose product has `k` combinations."""
    codes = np.indices(LAYOUTS[k]).reshape(2, -1)
    return [
        Factor((name,), tuple(map(str, range(count))), code, count, None, False)
        for name, count, code in zip("ab", LAYOUTS[k], codes)
    ]


@dataclass(frozen=True)
class Column:
    """A column of a table: `measure` of the case with these changes; an alarm is held to `ALPHA`."""

    title: str
    measure: Callable[[Case, np.random.Generator], float]
    blocked: bool = True
    missing: bool = False
    alarm: bool = True
    block: float = BLOCK


PAIRS = (
    Column("blocked", false_pair),
    Column("not blocked", false_pair, blocked=False),
    Column("blocked, seeds missing", false_pair, missing=True),
    Column("not blocked, seeds missing", false_pair, blocked=False, missing=True),
    Column("blocked: found", found_pairs, alarm=False),
    Column("not blocked: found", found_pairs, blocked=False, alarm=False),
)
OTHERS = (
    Column("factors, blocked", false_effect),
    Column("factors, not blocked", false_effect, blocked=False),
    Column("factors, seeds missing", false_effect, missing=True),
    Column("interval misses a value's mean", missed_mean),
    Column("the same, seeds missing", missed_mean, missing=True),
    Column("compare: a combination", false_change, block=0.0),
    Column("compare, seeds missing", false_change, missing=True, block=0.0),
    Column("compare: found", found_change, alarm=False, block=0.0),
    Column("compare: over all", false_whole, block=0.0),
)


def rows(columns: tuple[Column, ...], draws: int, processes: int) -> Iterator[tuple[Case, list[float]]]:
    """Yield each case of the table with its rates."""
    cases = [Case(k, seeds, spread) for seeds in SEEDS for spread in SPREADS for k in COUNTS]
    tasks = [(case, column, draws) for case in cases for column in columns]
    with ProcessPoolExecutor(processes) as pool:
        rates = pool.map(rate, tasks, chunksize=1)
        for case in cases:
            yield case, [next(rates) for _ in columns]


def rate(task: tuple[Case, Column, int]) -> float:
    """Return the mean of a column's measure over the draws; of power, over a quarter of them."""
    case, column, draws = task
    case = Case(case.k, case.seeds, case.spread, column.blocked, column.missing, column.block)
    rng = np.random.default_rng([case.k, case.seeds, SPREADS.index(case.spread), 2 * case.blocked + case.missing])
    return float(np.mean([column.measure(case, rng) for _ in range(draws if column.alarm else max(1, draws // 4))]))


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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_alarms", description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000, help="of each cell; a quarter of them for the power")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/report.md")
    options = parser.parse_args(argv)
    bound, parts, above = highest(options.draws), [], []
    for columns in (PAIRS, OTHERS):
        results = list(rows(columns, options.draws, options.processes))
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
        text = f"\n{parts[0]}\n\nOther claims, false alarms in percent:\n\n{parts[1]}\n"
        PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
