"""Match runs of a plan with existing run folders, including those of earlier versions of the runner."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from runner.core.schema import PRECISIONS
from runner.store.fingerprint import Pair
from runner.store.ledger import Record
from runner.sweep.plan.plan import Entry


def match(entry: Entry, records: Mapping[str, Record]) -> "tuple[Entry, Record] | None":
    """Return an entry with the fingerprint of its record, and the record; None where there is no record.

    records: by fingerprint.
    """
    for pair, is_ambiguous in _pairs(entry):
        record = records.get(pair[0])
        if record is not None and not (is_ambiguous and _precision_differs(record, entry)):
            return _with_pair(entry, pair), record
    return None


def match_training(entry: Entry, done: Mapping[str, Record]) -> "tuple[Entry, Path] | None":
    """Return an entry with the training fingerprint of a finished run, and that run's folder; None without such a run.

    done: by training fingerprint.
    """
    for (_, training), is_ambiguous in _pairs(entry):
        record = done.get(training)
        if record is not None and not (is_ambiguous and _precision_differs(record, entry)):
            return _with_pair(entry, (entry.job.fingerprint, training)), record.folder
    return None


def _pairs(entry: Entry) -> Iterator[tuple[Pair, bool]]:
    """Yield the fingerprints of an entry, and whether an earlier version hashed `auto` there for two precisions."""
    precision = None if "precision" in entry.job.ignores else entry.job.config["precision"]
    yield (entry.job.fingerprint, entry.job.training), precision == "fp32"
    if entry.earlier is not None:
        yield entry.earlier, precision == "bf16"


def _with_pair(entry: Entry, pair: Pair) -> Entry:
    return replace(entry, job=replace(entry.job, fingerprint=pair[0], training=pair[1]))


def _precision_differs(record: Record, entry: Entry) -> bool:
    """Return whether a run that was hashed with `auto` had another precision.

    Where none is recorded, `auto` was bf16 on a GPU, except for full batches.
    """
    config = entry.job.config
    on_gpu = str(record.result.get("device")).startswith("cuda") and not config["optimizer"]["full_batch"]
    recorded = record.result.get("precision") or PRECISIONS["bf16" if on_gpu else "fp32"]
    return recorded != PRECISIONS[config["precision"]]
