"""Notes under the verdict: its method, its limits, and the runs that take no part in it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from runner.core.text import few, number
from runner.report.results.collect import RunRecord
from runner.report.results.format import count
from runner.report.results.tables import LOST, Row
from runner.report.statistics.block_design import Fit
from runner.report.statistics.distributions import wilson

if TYPE_CHECKING:
    from runner.report.statistics.multiple_comparisons import Comparison

SETTLED = 5  # with fewer seeds for each combination, even a distinguishable leader is only a first answer
_METRIC = "val_accuracy"
_MOST_NAMED = 3  # combinations in a note
RULES = {  # selection rule of `runner.train.selection` -> in words
    "last": "of the last epoch",
    "val_loss": "of the epoch with the lowest validation loss",
    "val_accuracy": "of the epoch with the best validation accuracy",
}


def limits(rows: Sequence[Row], comparison: "Comparison", pooled: Fit) -> list[str]:
    """Return notes on the method of the verdict and its scope."""
    leader, notes = rows[comparison.leader], []
    if not comparison.rivals:
        first = "Fewer than 5 seeds: take it as a first answer. " if pooled.counts.max() < SETTLED else ""
        notes.append(
            f"{first}This is about these combinations; a statement about methods wants learning rates chosen for each."
        )
    notes += images([leader])
    seeds = "seeds as blocks" if pooled.layout.blocked else "without blocks, for the combinations ran different seeds"
    notes.append(
        "Method: a pair differs only if Tukey's test by the pooled residual and Games and Howell's by the two "
        f"combinations' own spread both say so at 5 %, corrected for all pairs of {len(rows)} combinations; {seeds}; "
        f"pooled residual {pooled.deviation:.2g} with {count(pooled.layout.df, 'degree')} of freedom. Chosen on "
        "validation accuracy; the test split took no part."
    )
    return notes


def images(rows: Sequence[Row]) -> list[str]:
    """Return a note on the uncertainty due to the number of validation images, for the first combination."""
    first = next((row for row in rows if row.metrics[_METRIC]), None)
    data = first.done[0].facts.get("data") if first else None
    size = data.get("val") if isinstance(data, dict) else None
    if not isinstance(size, int) or size < 1:
        return []
    mean = min(1.0, first.metrics[_METRIC].mean)
    low, high = (number(end, _METRIC) for end in wilson(mean, size))
    return [
        f"Every seed is measured on the same {count(size, 'validation image')}: what other images would change is in "
        f"none of these numbers. An accuracy of {number(mean, _METRIC)} on that many leaves {low} to {high} open "
        "(Wilson's 95 % interval)."
    ]


def doubts(cells: Sequence[Mapping[str, float]], pooled: Fit) -> list[str]:
    """Return notes on missing seeds and on combinations without any spread."""
    notes = []
    if not pooled.layout.balanced and pooled.layout.blocked:
        notes.append(
            "Seeds are missing: the order and the comparison use means adjusted for the seeds that each combination "
            "has (least-squares means)."
        )
    constant = sum(len(set(cell.values())) == 1 for cell in cells)
    if constant:
        notes.append(
            f"{constant} of {count(len(cells), 'combination')} gave the same accuracy in every seed: they make the "
            "pooled residual smaller than what the others show."
        )
    return notes


def weights_of(record: RunRecord) -> str | None:
    """Return the epoch of the weights that a run tested, in words; None if its result does not contain it."""
    fact = record.facts.get("select")
    return RULES.get(fact.get("rule")) if isinstance(fact, dict) else None


def rules(rows: Sequence[Row]) -> list[str]:
    """Return a note on combinations with different rules for selecting the tested epoch, if there are any."""
    named: dict[str, list[str]] = {}
    for row in rows:
        for words in dict.fromkeys(filter(None, map(weights_of, row.done))):
            named.setdefault(words, []).append(row.name)
    if len(named) < 2:
        return []
    parts = [f"{words} ({_named(names)})" for words, names in named.items()]
    return [
        f"Not all combinations are measured with weights chosen alike: {', '.join(parts)}. An epoch that was chosen "
        "on the validation images looks better on them than the last one; checkpoint.select=last treats all alike."
    ]


def left_out(rows: Sequence[Row]) -> list[str]:
    """Return notes on unfinished runs, which are in no mean, and on combinations that cannot lead because of them."""
    statuses = sum((row.statuses for row in rows), Counter())
    counts = [f"{statuses[status]} {status.replace('_', ' ')}" for status in LOST if statuses[status]]
    notes = [f"Left out of all means: {', '.join(counts)}."] if counts else []
    gaps = [row for row in rows if row.done and not row.is_complete]
    if len(rows) > 1 and gaps:
        named = _named(f"{row.name} ({row.gaps})" for row in gaps)
        notes.append(
            f"Not compared, and after all others in the table: {named}. The remaining seeds may be the "
            "luckiest, so such a combination cannot lead."
        )
    return notes


def _named(combinations: Iterable[str]) -> str:
    """Return the first combinations as text, and the number of the others."""
    return few(combinations, _MOST_NAMED, "; ", "; and ")
