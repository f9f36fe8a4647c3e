"""results.csv, and the combinations with their mean and standard deviation over seeds."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from runner.core.schema import PRECISIONS
from runner.report.results.collect import METRICS, RunRecord, natural
from runner.report.results.provenance import CODE, Programs
from runner.store.revisions import covers

# Typed keys that cannot make two runs differ in kind: where they lie, what they run on.
WITHOUT_EFFECT = ("name", "device", "threads", "rerun", "hydra", "sweep", "dry_run")

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


class Keys:
    """The columns that tell the runs of a folder apart, and each run's values in them.

    These are the union of what the runs swept. A folder may hold several commands: a key that one of them set
    for all its runs (`epochs=5`, then `epochs=10`) and that the runs differ in counts as swept too, else a
    mean would mix the two.
    """

    def __init__(self, records: Iterable[RunRecord]) -> None:
        self._records = [record for record in records if not record.damaged]
        self._configs: dict[int, Any] = {}
        swept = list(dict.fromkeys(key for record in self._records for key in record.swept))
        self.names = swept + [key for key in self._typed() if key not in swept and self._differs(key)]
        self.names += self._of_networks()
        self.programs = Programs(self._config, self._records)
        if self._mixed():
            self.names.append(CODE)

    def value(self, record: RunRecord, key: str) -> str:
        """Return a value as typed; of a run that did not sweep `key`, what it ran with; else nothing. Of a run that
        asks trained networks, return what these were trained with."""
        if record.damaged:
            return ""
        if key == CODE:
            return self.programs.label(record)
        if key == "precision" and record.facts.get("precision") in _PRECISIONS:
            return _PRECISIONS[record.facts["precision"]]  # which `auto` was
        if key in record.swept:
            return plain(record.swept[key])
        if key in record.choices:
            return plain(record.choices[key])
        if covers(record.ignores, key):
            return _trained_with(record, key)
        node = _leaf(self._config(record), key)
        if node is _NOTHING:
            return typed_overrides(record).get(key, "")
        return "" if isinstance(node, dict) else plain(node)

    def _of_networks(self) -> list[str]:
        """Return keys in which the networks differ that runs of the same settings asked."""
        asking = [record for record in self._records if record.facts.get("origins")]
        settings = [tuple(self.value(record, name) for name in self.names) for record in asking]
        if len(set(settings)) == len(settings):
            return []
        keys = dict.fromkeys(key for record in asking for key in _trained_keys(record))
        return [
            key for key in keys if key not in self.names and len({_trained_with(record, key) for record in asking}) > 1
        ]

    def _mixed(self) -> bool:
        """Return whether runs of the same settings, but for the seed, had different programs."""
        programs = [self.programs.key(record) for record in self._records]
        if len(set(programs)) < 2:
            return False
        names = [name for name in self.names if name != "seed"]
        settings = [tuple(self.value(record, name) for name in names) for record in self._records]
        return len(set(zip(settings, programs))) > len(set(settings))

    def _typed(self) -> list[str]:
        """Keys typed in some run's command, but not with the same value in all of them."""
        typed = [typed_overrides(record) for record in self._records]
        keys = dict.fromkeys(key for overrides in typed for key in overrides)
        return [
            key
            for key in keys
            if key.split(".")[0] not in WITHOUT_EFFECT and len({overrides.get(key) for overrides in typed}) > 1
        ]

    def _differs(self, key: str) -> bool:
        return len({self.value(record, key) for record in self._records}) > 1

    def _config(self, record: RunRecord) -> Any:
        if id(record) not in self._configs:
            try:
                text = (record.folder / "config.yaml").read_bytes()
                self._configs[id(record)] = yaml.load(text, Loader=yaml.CSafeLoader)
            except (OSError, yaml.YAMLError):  # the report then shows an empty cell
                self._configs[id(record)] = None
        return self._configs[id(record)]


_NOTHING = object()
_PRECISIONS = {dtype: name for name, dtype in PRECISIONS.items()}


def _leaf(node: Any, key: str) -> Any:
    """Return the value of a dotted key; `_NOTHING` where there is none."""
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return _NOTHING
        node = node[part]
    return node


def _trained_with(record: RunRecord, key: str) -> str:
    """Return what networks that answer were trained with, of a key that does not matter to the run's own task."""
    origins = record.facts.get("origins") or []
    leaves = [_leaf(origin.get("config"), key) for origin in origins if isinstance(origin, dict)]
    values = list(dict.fromkeys(plain(leaf) for leaf in leaves if leaf is not _NOTHING and not isinstance(leaf, dict)))
    return values[0] if len(values) == 1 else f"[{','.join(values)}]" if values else ""


def _trained_keys(record: RunRecord) -> Iterable[str]:
    """Yield the keys, dotted, that networks which answer were trained with."""

    def leaves(node: Any, path: str) -> Iterable[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from leaves(value, f"{path}.{key}" if path else str(key))
        elif path.partition(".")[0] not in WITHOUT_EFFECT:
            yield path

    for origin in record.facts.get("origins") or []:
        if isinstance(origin, dict):
            yield from leaves(origin.get("config"), "")


def label(record: RunRecord, group: list[RunRecord]) -> str:
    """A run's name among others: the values in which they differ (`adam`, `sgd, lr=0.1`)."""
    keys = Keys(group)
    names = [key for key in keys.names if len({keys.value(other, key) for other in group}) > 1] or ["optimizer"]
    own = [key for key in names if key in record.swept] or names  # what its own product swept, where several were
    values = {key: keys.value(record, key) for key in own}
    return ", ".join(v if k == "optimizer" else f"{k.rpartition('.')[2]}={v}" for k, v in values.items() if v != "")


def metric_columns(records: list[RunRecord]) -> tuple[str, ...]:
    """What results.csv says of the runs: classifiers have accuracies, walks on surfaces a verdict."""
    walks = any(record.walked for record in records)
    trained = any(not record.walked and not record.columns for record in records)
    others = dict.fromkeys(key for record in records for key in record.columns.values() if key not in METRICS)
    return (*(WALK if walks else ()), *others, *(METRICS if trained else ("seconds",)))


def results_csv(records: list[RunRecord]) -> str:
    """One line a run: `run status`, each swept key, the metrics with all their digits."""
    keys, columns = Keys(records), metric_columns(records)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    titles = [f"{name}_done" if name in keys.names else name for name in columns]  # `epochs` may be swept as well
    writer.writerow(["run", "status", *keys.names, *titles])
    for record in records:
        values = [keys.value(record, key) for key in keys.names]
        metrics = [record.metrics.get(name, record.facts.get(name)) for name in columns]
        writer.writerow([record.run, record.status, *values, *metrics])
    return file.getvalue()


def summarize(records: list[RunRecord], keys: Keys | None = None) -> list[Row]:
    """The combinations, by mean validation accuracy, then by mean validation loss; those without come last.

    A combination with runs that are not done stands after all that are complete. A damaged run is left out: what it was
    cannot be known.
    """
    keys = keys or Keys(records)
    names = [name for name in keys.names if name != "seed"]
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in records:
        if not record.damaged:
            groups.setdefault(tuple(keys.value(record, name) for name in names), []).append(record)
    rows = [_row(dict(zip(names, values)), group) for values, group in groups.items()]
    return sorted(rows, key=_order)


def by_seed(row: Row, keys: Keys, metric: str = "val_accuracy") -> dict[str, float]:
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


def plain(value: Any) -> str:
    """A value as it is typed: `[dropout,l2]`, `true`, `null`, `0.001`."""
    if isinstance(value, list | tuple):
        return f"[{','.join(plain(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{plain(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


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


def typed_overrides(record: RunRecord) -> dict[str, str]:
    """What was typed for a run: key -> value."""
    pairs = (override.lstrip("+").partition("=") for override in record.overrides)
    return {key: value for key, equals, value in pairs if equals}
