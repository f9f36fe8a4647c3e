"""The report's page and its command."""

import re
import statistics

import pytest

from runner.core.errors import ConfigError
from runner.report import write_report
from runner.report.__main__ import main
from tests.shared.reports import Page, sweep, write_run


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
