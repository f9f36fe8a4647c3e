"""Results of a folder: records, damaged files, results.csv and the summary over seeds."""

import csv
import io
import math
import subprocess
import sys
import time

import pytest

from runner.report import write_report, write_results
from runner.report.results.collect import METRICS, collect
from runner.report.results.keys import SweptKeys
from runner.report.results.tables import results_csv, summarize
from runner.store.lock import Lock
from tests.shared.reports import Page, sweep, write_run


def test_collect_reads_results_and_curves_in_natural_order(tmp_path):
    """Every run is a record with its metrics, its curves and its other facts; 2 comes before 10."""
    for seed in (10, 2):
        write_run(tmp_path / f"seed={seed}", swept={"seed": seed}, val_accuracy=0.5, device="cpu")
    (tmp_path / "notes").mkdir()
    first, second = collect(tmp_path)
    assert (first.run, second.run) == ("seed=2", "seed=10")
    assert first.metrics["val_accuracy"] == 0.5 and first.metrics["test_loss"] is None
    assert first.curves["epoch"] == [1, 2, 3] and first.curves["val_accuracy"][1] == 0.75
    assert first.facts["device"] == "cpu"


def test_collect_takes_a_lone_run(tmp_path):
    """A run's own folder is read as well as a sweep's."""
    (record,) = collect(write_run(tmp_path / "run"))
    assert (record.run, record.status) == ("run", "done")


@pytest.mark.parametrize(
    "content",
    [
        b'{"status": "done", "val_acc',
        b"",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"status": "finished"}',
        b'{"status": "done", "val_accuracy": "high"}',
        b'{"status": "done", "swept": [1]}',
    ],
)
def test_a_damaged_result_is_named_and_not_raised(tmp_path, content):
    """A result.json that is cut, or not what it should be, becomes a failed run with its reason."""
    write_run(tmp_path / "good", swept={"lr": 1}, val_accuracy=0.5)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_bytes(content)
    bad, good = collect(tmp_path)
    assert (bad.status, good.status) == ("failed", "done")
    assert "result.json" in bad.reason and "\n" not in bad.reason
    assert [row.records for row in summarize([bad, good])] == [(good,)]
    assert bad.reason in Page(write_report(tmp_path).read_text()).words


def test_a_cut_metrics_file_gives_its_whole_rows(tmp_path):
    """A row that is being written is left out; a repeated epoch counts once, as it was last."""
    run = write_run(tmp_path / "run", epochs=2)
    with (run / "metrics.csv").open("a") as file:
        file.write("2,20,0.1,0.5,0.2,nan,0.1,0.5\n3,30,0.")
    (record,) = collect(run)
    assert record.curves["epoch"] == [1, 2]
    assert record.curves["train_loss"] == [1, 0.1] and record.curves["val_accuracy"] == [0.5, None]


def test_results_csv_has_the_columns_in_order(tmp_path):
    """`run status`, each swept key as typed, the metrics with all their digits; lists in brackets."""
    write_run(tmp_path / "a", swept={"regularization": ["dropout", "l2"], "optimizer.lr": 1e-5}, val_accuracy=1 / 3)
    write_run(tmp_path / "b", "diverged", swept={"regularization": [], "optimizer.lr": 0.1})
    rows = list(csv.reader(io.StringIO(results_csv(collect(tmp_path)))))
    assert rows[0] == ["run", "status", "regularization", "optimizer.lr", *METRICS]
    assert rows[1] == ["a", "done", "[dropout,l2]", "1e-05", str(1 / 3), "", "", "", "3", "1.5"]
    assert rows[2][:5] == ["b", "diverged", "[]", "0.1", ""]


def test_a_key_that_a_run_did_not_sweep_is_looked_up(tmp_path):
    """Two sweeps in one folder: the other's keys come from `choices` and config.yaml, else are empty."""
    write_run(tmp_path / "a", swept={"optimizer": "sgd", "regularization": ["l2"], "model.depth": 3})
    other = write_run(
        tmp_path / "b",
        swept={"epochs": 5},
        choices={"optimizer": "adam", "regularization": ["dropout", "l2"]},
    )
    (other / "config.yaml").write_text("optimizer:\n  lr: 0.001\nepochs: 5\n")
    rows = list(csv.DictReader(io.StringIO(results_csv(collect(tmp_path)))))
    keys = ("optimizer", "regularization", "model.depth", "epochs")
    assert [rows[1][key] for key in keys[:3]] == ["adam", "[dropout,l2]", ""]
    assert SweptKeys(collect(tmp_path)).value(collect(tmp_path)[1], "optimizer.lr") == "0.001"


def test_runs_of_two_commands_are_not_averaged(tmp_path):
    """A key set for a whole command, and differently in another one, separates them; `name` does not."""
    for epochs, accuracy in ((5, 0.5), (10, 0.7)):
        for seed in (0, 1):
            write_run(
                tmp_path / f"e{epochs}s{seed}",
                swept={"seed": seed},
                overrides=[f"seed={seed}", f"model.width={epochs}", f"name=n{epochs}", "batch_size=64"],
                val_accuracy=accuracy,
            )
    rows = summarize(collect(tmp_path))
    assert [(row.values, row.metrics["val_accuracy"].mean) for row in rows] == [
        ({"model.width": "10"}, pytest.approx(0.7)),
        ({"model.width": "5"}, pytest.approx(0.5)),
    ]


def test_summary_is_mean_and_sample_deviation_over_done_seeds(tmp_path):
    """Ordered by mean validation accuracy; unfinished and diverged runs count in no mean."""
    values = {"sgd": [0.5, 0.6, 0.9], "adam": [0.8], "lion": [0.7, 0.7]}
    sweep(tmp_path, values)
    write_run(tmp_path / "x", "diverged", swept={"optimizer": "sgd", "seed": 3}, val_accuracy=0.1)
    write_run(tmp_path / "y", "running", swept={"optimizer": "newton", "seed": 0})
    rows = summarize(collect(tmp_path))
    assert [row.values["optimizer"] for row in rows] == ["adam", "lion", "sgd", "newton"]
    sgd = rows[2]
    assert sgd.metrics["val_accuracy"].mean == pytest.approx(sum(values["sgd"]) / 3)
    assert sgd.metrics["val_accuracy"].deviation == pytest.approx(
        math.sqrt(sum((v - 2 / 3) ** 2 for v in values["sgd"]) / 2)
    )
    assert (sgd.metrics["val_accuracy"].n, sgd.statuses) == (3, {"done": 3, "diverged": 1})
    assert rows[0].metrics["val_accuracy"].deviation is None and rows[3].metrics["val_accuracy"] is None


def test_results_alone_need_no_pictures(tmp_path):
    """`write_results` loads neither matplotlib nor jinja2 nor torch."""
    sweep(tmp_path, {"sgd": [0.5]})
    code = (
        "import sys; from pathlib import Path; from runner.report import write_results\n"
        f"write_results(Path({str(tmp_path)!r}))\n"
        "assert not {'matplotlib', 'jinja2', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert write_results(tmp_path).read_text().startswith("run,status,optimizer,seed,")


def test_a_thousand_runs_are_read_quickly(tmp_path):
    """Reading scales with the number of runs: a hundred take well under a second even on a busy machine."""
    for i in range(100):
        write_run(tmp_path / f"seed={i}", swept={"seed": i}, val_accuracy=0.5, epochs=20)
    start = time.perf_counter()
    assert len(collect(tmp_path)) == 100
    assert time.perf_counter() - start < 1


def test_a_run_that_nobody_does_any_more_is_interrupted(tmp_path):
    """results.csv and the page tell a run that goes on from one that was left, as `python -m runner.sweep status`."""
    write_run(tmp_path / "left", status="running", swept={"seed": 0})
    write_run(tmp_path / "held", status="running", swept={"seed": 1})
    with Lock(tmp_path / "held"):
        page = write_report(tmp_path).read_text()
    statuses = {
        row["run"]: row["status"] for row in csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    }
    assert statuses == {"left": "interrupted", "held": "running"}
    assert "1 interrupted" in page and "The same command finishes" in page
