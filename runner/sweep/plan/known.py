"""Runs of a plan matched with the folders that are there, those of earlier versions of the runner among them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from runner.core.schema import PRECISIONS
from runner.store.fingerprint import Pair
from runner.store.ledger import Record
from runner.sweep.plan.plan import Entry


def match(entry: Entry, records: Mapping[str, Record]) -> "tuple[Entry, Record] | None":
    """Return an entry under the fingerprint that its run is recorded with, and the record; None without one.

    records: by fingerprint.
    """
    for pair, unresolved in _pairs(entry):
        record = records.get(pair[0])
        if record is not None and not (unresolved and _differs(record, entry)):
            return _under(entry, pair), record
    return None


def match_training(entry: Entry, done: Mapping[str, Record]) -> "tuple[Entry, Path] | None":
    """Return an entry under the training that a finished run is recorded with, and that run's folder, likewise.

    done: by training.
    """
    for (_, training), unresolved in _pairs(entry):
        record = done.get(training)
        if record is not None and not (unresolved and _differs(record, entry)):
            return _under(entry, (entry.job.fingerprint, training)), record.folder
    return None


def _pairs(entry: Entry) -> Iterator[tuple[Pair, bool]]:
    """Yield the pairs of an entry, and whether they had been hashed with an `auto` that could be two precisions."""
    precision = None if "precision" in entry.job.ignores else entry.job.config["precision"]
    yield (entry.job.fingerprint, entry.job.training), precision == "fp32"
    if entry.earlier is not None:
        yield entry.earlier, precision == "bf16"


def _under(entry: Entry, pair: Pair) -> Entry:
    return replace(entry, job=replace(entry.job, fingerprint=pair[0], training=pair[1]))


def _differs(record: Record, entry: Entry) -> bool:
    """Return whether a run that was hashed with `auto` had another precision; where none is recorded, `auto` was bf16
    on a GPU, but for full batches."""
    config = entry.job.config
    on_gpu = str(record.result.get("device")).startswith("cuda") and not config["optimizer"]["full_batch"]
    known = record.result.get("precision") or PRECISIONS["bf16" if on_gpu else "fp32"]
    return known != PRECISIONS[config["precision"]]
