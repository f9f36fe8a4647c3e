"""How often the report and `runner.compare` claim a difference where there is none, and how often they find one.

    python -m benchmarks.false_alarms [--draws 2000] [--write]

Draws accuracies of equal combinations, asks the report's own functions, and prints the tables of docs/report.md
(`--write` puts them there). A cell of false alarms is the share of draws with at least one. Ends with 1 where one is
above 5 % by a one-sided binomial test at 1 %. One CPU core, a few minutes.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.equal_runs import (
    SPREADS,
    Case,
    Measure,
    false_change,
    false_effect,
    false_pair,
    false_whole,
    found_change,
    found_pairs,
    missed_mean,
)
from runner.report.statistics.multiple_comparisons import ALPHA

COUNTS = (4, 8, 9, 12, 24, 48)
SEEDS = (3, 5)
CHUNK = 250  # draws at once
PAGE = Path(__file__).parent.parent / "docs" / "report.md"
MARKS = "<!-- benchmarks/false_alarms.py writes these tables -->", "<!-- to here -->"


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
