"""results.csv, and the combinations with their mean and standard deviation over seeds."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from runner.report.results.collect import METRICS, RunRecord, natural
from runner.report.results.keys import SweptKeys
from runner.report.results.provenance import CODE

FEWEST = 3  # seeds of a combination that is judged: two settle nothing
LOST = {  # statuses of runs that give no result -> in words
    "diverged": "diverged",
    "failed": "failed",
    "out_of_memory": "ran out of memory",
    "pruned": "pruned",
    "interrupted": "interrupted",
    "running": "still running",
    "planned": "not started",
}

WALK = ("verdict", "steps_to_tolerance", "final_loss", "distance", "evaluations")  # what a walk on a surface ends with


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1; None for one value) of a metric."""

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Row:
    """A combination: all swept keys but the seed, with the runs that share them.

    The statistics are over the runs that are `done`: a diverged or stopped run has no final value to average.
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
    def drawn(self) -> bool:
        return any(record.curves for record in self.records)

    @property
    def done(self) -> list[RunRecord]:
        return [record for record in self.records if record.status == "done"]

    @property
    def is_complete(self) -> bool:
        """Whether all of its runs are done; the seeds that are left of the others may be its luckiest."""
        return len(self.done) == len(self.records)

    @property
    def gaps(self) -> str:
        """`2 of 5 seeds diverged, 1 failed`; empty where it is complete."""
        return gaps(record.status for record in self.records)


def metric_columns(records: list[RunRecord]) -> tuple[str, ...]:
    """What results.csv says of the runs: classifiers have accuracies, walks on surfaces a verdict."""
    walks = any(record.walked for record in records)
    trained = any(not record.walked and not record.columns for record in records)
    others = dict.fromkeys(key for record in records for key in record.columns.values() if key not in METRICS)
    return (*(WALK if walks else ()), *others, *(METRICS if trained else ("seconds",)))


def results_csv(records: list[RunRecord]) -> str:
    """One line a run: `run status`, each swept key, the metrics with all their digits."""
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
    """The combinations, by mean validation accuracy, then by mean validation loss; those without come last.

    A combination with runs that are not done stands after all that are complete. A damaged run is left out: what it was
    cannot be known.
    """
    keys = keys or SweptKeys(records)
    names = [name for name in keys.names if name != "seed"]
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        if not record.damaged:
            groups.setdefault(tuple(keys.value(record, name) for name in names), []).append(record)
    rows = [_row(dict(zip(names, values)), group) for values, group in groups.items()]
    return sorted(rows, key=_order)


def by_seed(row: Row, keys: SweptKeys, metric: str = "val_accuracy") -> dict[str, float]:
    """seed -> value of the combination's finished runs; runs of one seed (on two devices, say) count as one."""
    values: dict[str, list[float]] = {}
    for record in row.done:
        if (value := record.metrics[metric]) is not None:
            values.setdefault(keys.value(record, "seed") if "seed" in keys.names else "", []).append(value)
    return {seed: statistics.fmean(found) for seed, found in values.items()}


def gaps(statuses: Iterable[str]) -> str:
    """Return what happened to the runs of a combination that are not done: `2 of 5 seeds diverged, 1 failed`."""
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
