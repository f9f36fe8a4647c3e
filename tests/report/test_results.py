"""The report of a folder: reading it, the tables, the page and the command."""

import csv
import io
import math
import re
import statistics
import subprocess
import sys
import time

import pytest

from runner.core.errors import ConfigError
from runner.report import write_report, write_results
from runner.report.__main__ import main
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


def test_page_stands_alone_and_shows_the_numbers(tmp_path):
    """Well-formed, nothing loaded from elsewhere, no id twice, mean ± deviation, the curves."""
    values = {"sgd": [0.5, 0.6], "adam": [0.8, 0.9], "lion": [0.7, 0.75]}
    sweep(tmp_path, values)
    write_run(tmp_path / "z", "failed", reason="it broke", swept={"optimizer": "sgd", "seed": 2})
    path = write_report(tmp_path)
    text = path.read_text()
    page = Page(text)
    assert page.loads == [] and "url(http" not in text and "@import" not in text
    assert len(page.ids) == len(set(page.ids))
    deviation = statistics.stdev(values["adam"])
    assert f"0.8500 ± {deviation:.4f}" in page.words
    order = [
        "No verdict",
        "did not end well",
        "Combinations, by",
        "What each factor",
        "Learning curves",
        "How to repeat",
    ]
    places = [page.words.index(title) for title in order]
    assert places == sorted(places)
    assert "it broke" in page.words and text.count("<figure>") == 6  # four curves, one factor, one of time
    assert "2 of 3" in page.words and "Left out of all means: 1 failed." in page.words
    assert (tmp_path / "results.csv").read_text().count("\n") == 8


def test_page_escapes_everything(tmp_path):
    """Names, reasons, values and commands that look like markup are shown, not obeyed."""
    evil = "<script>alert(1)</script>"
    write_run(
        tmp_path / "<b>run",
        "failed",
        reason=evil,
        swept={"model.<i>": evil},
        command=evil,
        device=evil,
        versions={evil: evil},
        data={"identity": evil},
        overrides=[f"x={evil}"],
        git_commit=evil,
    )
    text = write_report(tmp_path).read_text()
    assert "<script>alert" not in text and "<i>" not in text.replace("<i class", "") and "<b>run" not in text
    assert text.count("&lt;script&gt;alert(1)") >= 7


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ({"sgd": [0.5], "adam": [0.6]}, "One seed settles nothing"),
        ({"sgd": [0.5, 0.61], "adam": [0.6, 0.7]}, "Two seeds settle nothing"),
        ({"sgd": [0.5, 0.61], "adam": [0.6, 0.7, 0.85]}, "only one combination has 3 seeds or more"),
        ({"sgd": [0.5, 0.61, 0.7], "adam": [0.6, 0.7, 0.85, 0.9]}, "with up to 4 seeds"),
        ({"sgd": [0.5] * 5, "adam": [0.6] * 5}, "residual is zero"),
        ({"sgd": [0.5, 0.6], "adam": [0.6]}, "each combination has two seeds at most"),
        ({"sgd": [0.5, 0.6, 0.7], "adam": [0.52, 0.6, 0.69]}, "not distinguishable from the other one"),
        ({"sgd": [0.5, 0.6, 0.7], "adam": [0.9, 1.0, 1.11]}, "is distinguishable from the other one"),
        ({"sgd": [0.5]}, "Nothing to compare"),
        ({"sgd": [None]}, "no run has finished"),
    ],
)
def test_page_says_what_the_seeds_allow(tmp_path, accuracies, said):
    """The order is never called settled by the order alone; one seed is shown without ±."""
    for optimizer, values in accuracies.items():
        for seed, value in enumerate(values):
            status = "done" if value else "running"
            swept = {"optimizer": optimizer, "seed": seed}
            write_run(tmp_path / f"{optimizer}{seed}", status, swept=swept, val_accuracy=value, seconds=None)
    page = Page(write_report(tmp_path).read_text())
    assert said in page.words
    numbers = re.findall(r"\d ± \d", page.words)
    assert bool(numbers) == (max(map(len, accuracies.values())) > 1)
    assert not re.search(r"\b(better than|beats|winner|outperforms)\b(?! it is)", page.words)


def test_diverged_run_does_not_flatten_the_curves(tmp_path):
    """The loss axis fits the finished runs although another one went to 1e30."""
    sweep(tmp_path, {"sgd": [0.5, 0.6]})
    run = write_run(tmp_path / "bad", "diverged", swept={"optimizer": "sgd", "seed": 9}, diverged_step=7)
    (run / "metrics.csv").write_text("epoch,val_loss\n1,1e30\n")
    page = Page(write_report(tmp_path).read_text())
    assert "1e30" not in page.words and "10 30" not in page.words and "diverged at step 7" in page.words


def test_wide_ranges_are_named_without_mathematics(tmp_path):
    """A logarithmic loss axis reads 0.1 and 10: no markup of the drawing library reaches the page."""
    run = write_run(tmp_path / "run", swept={"seed": 0}, val_accuracy=0.5)
    rows = "".join(f"{epoch},{10 ** (2 - epoch / 4)}\n" for epoch in range(1, 20))
    (run / "metrics.csv").write_text(f"epoch,val_loss\n{rows}")
    text = write_report(tmp_path).read_text()
    assert "mathdefault" not in text and ">0.1</text>" in text


def test_the_page_stays_small(tmp_path):
    """All that grows with the runs takes less than 1.5 kB of each: a thousand runs make 1.5 MB."""
    sizes = {}
    for name, count in (("few", 20), ("many", 120)):
        values = {f"optimizer{i}": [0.5 + i / 997 + seed / 91 for seed in range(3)] for i in range(count // 3)}
        sizes[len(values) * 3] = write_report(sweep(tmp_path / name, values)).stat().st_size
    (few, small), (many, large) = sizes.items()
    assert (large - small) / (many - few) < 1500


def test_many_combinations_leave_ten_coloured_lines(tmp_path):
    """The best ten have a colour and a place in the legend, the others are grey."""
    sweep(tmp_path, {f"o{i}": [0.5 + i / 100] for i in range(13)})
    page = Page(write_report(tmp_path).read_text())
    assert "the other 3 combinations" in page.words
    assert page.words.count("optimizer=o12") > 1 and "optimizer=o2 " not in page.words.split("All runs")[0]


def test_the_same_folder_gives_the_same_page(tmp_path):
    """Nothing but the time of making differs between two reports of one folder."""
    sweep(tmp_path, {"sgd": [0.5, 0.6]})
    made = re.compile(r"report made [\d: -]+")
    first = made.sub("", write_report(tmp_path).read_text())
    assert made.sub("", write_report(tmp_path).read_text()) == first


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


def test_command_writes_the_report_and_names_it(tmp_path, capsys):
    """`python -m runner.report DIR DIR` prints the pages it made and ends with 0."""
    folders = [sweep(tmp_path / name, {"sgd": [0.5]}) for name in ("first", "second")]
    assert main([str(folder) for folder in folders]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "report.html") for folder in folders]


@pytest.mark.parametrize("case", ["missing", "empty", "above"])
def test_command_refuses_a_folder_without_runs(tmp_path, capsys, case):
    """One line that names the folder, exit code 2, and nothing is written, not even for the good folder."""
    good = sweep(tmp_path / "outputs" / "first", {"sgd": [0.5]})
    bad = {"missing": tmp_path / "none", "empty": tmp_path / "empty", "above": tmp_path / "outputs"}[case]
    (tmp_path / "empty").mkdir()
    assert main([str(good), str(bad)]) == 2
    error = capsys.readouterr().err
    assert str(bad) in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("report.html"))
    assert case != "above" or str(good) in error
    with pytest.raises(ConfigError):
        write_report(bad)


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
