"""Tables of results: results.csv, and the combinations with mean and standard deviation over seeds."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from runner.report.results.collect import METRICS, RunRecord, natural
from runner.report.results.keys import SweptKeys
from runner.report.results.provenance import CODE

FEWEST = 3  # seeds of a combination that is tested, because two settle nothing
LOST = {  # status of a run without a result -> in words
    "diverged": "diverged",
    "failed": "failed",
    "out_of_memory": "ran out of memory",
    "pruned": "pruned",
    "interrupted": "interrupted",
    "running": "still running",
    "planned": "not started",
}

SURFACE = ("verdict", "steps_to_tolerance", "final_loss", "distance", "evaluations")  # results of task=surface


@dataclass(frozen=True)
class Statistic:
    """Statistic: mean and sample standard deviation (n - 1; None for one value) of a metric."""

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """Row: a combination of values of all swept keys except the seed, with its runs.

    The statistics are over runs that are `done`, because a diverged or stopped run has no final value to average.
    """

    values: dict[str, str]
    records: tuple[RunRecord, ...]
    statuses: Counter
    metrics: dict[str, Statistic | None]

    @property
    def name(self) -> str:
        alone = self.records[0].run if len(self.records) == 1 else "all seeds"
        values = [f"{key}={value}" for key, value in self.values.items() if key != CODE or value]
        return ", ".join(values) or alone

    @property
    def has_curves(self) -> bool:
        return any(record.curves for record in self.records)

    @property
    def done(self) -> list[RunRecord]:
        return [record for record in self.records if record.status == "done"]

    @property
    def is_complete(self) -> bool:
        """Return whether all runs are done; otherwise the remaining seeds may be the luckiest."""
        return len(self.done) == len(self.records)

    @property
    def gaps(self) -> str:
        """Return the unfinished runs in words, `2 of 5 seeds diverged, 1 failed`; empty if all are done."""
        return gaps(record.status for record in self.records)


def metric_columns(records: list[RunRecord]) -> tuple[str, ...]:
    """Return the columns of results: accuracies for classifiers, a verdict for `task=surface`, others by task."""
    has_surface = any(record.is_surface for record in records)
    has_trained = any(not record.is_surface and not record.columns for record in records)
    others = dict.fromkeys(key for record in records for key in record.columns.values() if key not in METRICS)
    return (*(SURFACE if has_surface else ()), *others, *(METRICS if has_trained else ("seconds",)))


def results_csv(records: list[RunRecord]) -> str:
    """Return results.csv: a line for each run with name, status, swept keys, and metrics with all digits."""
    keys, columns = SweptKeys(records), metric_columns(records)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    titles = [f"{name}_done" if name in keys.names else name for name in columns]  # `epochs` may be swept as well
    writer.writerow(["run", "status", *keys.names, *titles])
    for record in records:
        values = [keys.value(record, key) for key in keys.names]
        metrics = [record.metrics.get(name, record.facts.get(name)) for name in columns]
        writer.writerow([record.run, record.status, *values, *metrics])
    return file.getvalue()


def summarize(records: list[RunRecord], keys: SweptKeys | None = None) -> list[Row]:
    """Group runs into combinations, sorted by mean validation accuracy, then by mean validation loss.

    Combinations with unfinished runs come after all complete ones. A damaged run is left out, because its settings are
    unknown.
    """
    keys = keys or SweptKeys(records)
    names = [name for name in keys.names if name != "seed"]
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        if not record.is_damaged:
            groups.setdefault(tuple(keys.value(record, name) for name in names), []).append(record)
    rows = [_row(dict(zip(names, values)), group) for values, group in groups.items()]
    return sorted(rows, key=_order)


def by_seed(row: Row, keys: SweptKeys, metric: str = "val_accuracy") -> dict[str, float]:
    """Return seed -> value of a combination's finished runs; runs of a seed (on two devices, say) are averaged."""
    values: dict[str, list[float]] = {}
    for record in row.done:
        if (value := record.metrics[metric]) is not None:
            values.setdefault(keys.value(record, "seed") if "seed" in keys.names else "", []).append(value)
    return {seed: statistics.fmean(samples) for seed, samples in values.items()}


def gaps(statuses: Iterable[str]) -> str:
    """Return a combination's unfinished runs in words: `2 of 5 seeds diverged, 1 failed`."""
    counts = Counter(statuses)
    lost = [f"{counts[status]} {words}" for status, words in LOST.items() if counts[status]]
    if not lost:
        return ""
    number, _, words = lost[0].partition(" ")
    total = counts.total()
    return ", ".join([f"{number} of {total} seed{'s' if total > 1 else ''} {words}", *lost[1:]])


def _row(values: dict[str, str], group: list[RunRecord]) -> Row:
    done = [record for record in group if record.status == "done"]
    return Row(
        values=values,
        records=tuple(group),
        statuses=Counter(record.status for record in group),
        metrics={name: _statistic(record.metrics[name] for record in done) for name in METRICS},
    )


def _statistic(values: Iterable[float | None]) -> Statistic | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Statistic(len(known), statistics.fmean(known), deviation)


def _order(row: Row) -> tuple:
    accuracy, loss = row.metrics["val_accuracy"], row.metrics["val_loss"]
    return (
        not row.is_complete,
        -accuracy.mean if accuracy else float("inf"),
        loss.mean if loss else float("inf"),
        natural(row.name),
    )
