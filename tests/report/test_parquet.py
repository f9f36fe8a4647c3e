"""results.parquet: the rows of results.csv with types."""

import csv
import sys

import pytest

from runner.report import write_report
from runner.store.owned import PARQUET_MARK
from tests.shared.reports import sweep, write_run


def test_parquet_holds_the_csv_with_types(tmp_path):
    """results.parquet: the same rows and columns; numbers are numbers, what is missing is null, `null` stays a word."""
    parquet = pytest.importorskip("pyarrow.parquet")
    for i, cap in enumerate((5, None)):
        write_run(tmp_path / f"r{i}", swept={"optimizer": "sgd", "cap": cap, "seed": i}, val_accuracy=1 / 3)
    write_report(tmp_path)
    rows = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    with (tmp_path / "results.csv").open() as file:
        assert [list(row) for row in csv.DictReader(file)] == [list(row) for row in rows]
    assert [(row["seed"], row["cap"], row["val_accuracy"], row["test_loss"]) for row in rows] == [
        (0, "5", 1 / 3, None),
        (1, "null", 1 / 3, None),
    ]


def test_without_pyarrow_the_csv_stands_alone(tmp_path, monkeypatch):
    """No pyarrow: no parquet, and an older one that would now differ is removed."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    sweep(tmp_path, {"sgd": [0.5]})
    (tmp_path / "results.parquet").write_bytes(b"old" + PARQUET_MARK)
    write_report(tmp_path)
    assert not (tmp_path / "results.parquet").exists() and (tmp_path / "results.csv").exists()
