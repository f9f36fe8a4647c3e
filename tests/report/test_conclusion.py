"""The page's verdict: its level, diverged and missing seeds, intervals."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.false_alarms import highest
from runner.report import write_report
from runner.report.results.collect import METRICS, RunRecord, collect
from runner.report.results.keys import SweptKeys
from runner.report.results.tables import Statistic, summarize
from runner.report.statistics.conclusion import interval, verdict
from runner.report.statistics.distributions import wilson
from tests.shared.least_squares import dense
from tests.shared.reports import Page, sweep, write_run


def drawn(values):
    """Records of runs, without their files: optimizer -> accuracies by seed, None for a diverged run."""
    return [
        RunRecord(
            Path(),
            f"{optimizer}-{seed}",
            "diverged" if value is None else "done",
            swept={"optimizer": optimizer, "seed": seed},
            metrics=dict.fromkeys(METRICS) | {"val_accuracy": 0.999 if value is None else value},
        )
        for optimizer, column in values.items()
        for seed, value in enumerate(column)
    ]


def test_the_page_itself_keeps_its_level():
    """Null simulation of the whole verdict, 10 equal combinations of 4 seeds, one with five times the spread."""
    rng = np.random.default_rng(12)
    claims = 0
    for _ in range(200):
        y = 0.8 + (rng.normal(size=(10, 4)) * np.array([5, *[1] * 9])[:, None] + rng.normal(size=4)) / 100
        records = drawn({f"o{i}": row for i, row in enumerate(y.tolist())})
        page = verdict(summarize(records), SweptKeys(records))
        claims += bool(page.settled) or any(word.startswith("yes") for word in page.judged)
    assert claims <= highest(200) * 200


def test_a_combination_whose_bad_seeds_diverged_does_not_lead():
    """It stands last, is not judged, is in no tie, and the page says why; the others are judged without it."""
    values = {"sgd": [0.5, 0.53, 0.47, 0.51], "adam": [0.9, 0.93, 0.88, 0.91]}
    records = drawn(values | {"wild": [0.99, 0.98, 0.99, None, None]})
    page, clean = (verdict(summarize(of), SweptKeys(of)) for of in (records, drawn(values)))
    assert [row.values["optimizer"] for row in page.rows] == ["adam", "sgd", "wild"]
    assert page.judged == [*clean.judged, "cannot lead: 2 of 5 seeds diverged"]
    assert (page.headline, page.lines, page.settled) == (clean.headline, clean.lines, clean.settled)
    assert "optimizer=wild (2 of 5 seeds diverged)" in page.notes[-1]


@pytest.mark.parametrize("status", ["failed", "out_of_memory", "pruned", "interrupted", "running", "diverged"])
def test_no_survivors_lead_alone(tmp_path, status):
    """Where every combination lacks a seed there is no verdict and no highest mean, whatever ended the runs."""
    sweep(tmp_path, {"sgd": [0.5, 0.6, 0.7], "adam": [0.8, 0.9, 0.85]})
    for optimizer in ("sgd", "adam"):
        write_run(tmp_path / optimizer, status, swept={"optimizer": optimizer, "seed": 3}, val_accuracy=0.9)
    words = Page(write_report(tmp_path).read_text()).words
    assert "No verdict: each combination has seeds that did not finish." in words
    assert "highest mean" not in words and "1 of 4 seeds" in words


def test_intervals_stay_between_zero_and_one(tmp_path):
    """Of a mean of accuracies near one: in the table, in the words, in the factors' bars."""
    sweep(tmp_path, {"sgd": [0.99, 1.0, 0.9], "adam": [0.05, 0.0, 0.0]})
    (first, last) = summarize(collect(tmp_path))
    assert interval(first.metrics["val_accuracy"])[1] == 1.0 and interval(last.metrics["val_accuracy"])[0] == 0.0
    text = Page(write_report(tmp_path).read_text()).words
    intervals = re.findall(r"95 % interval (-?[\d.]+) to (-?[\d.]+)\.", text)
    assert intervals and all(0 <= float(low) <= float(high) <= 1 for low, high in intervals)
    assert " to 1.0000" in text and "0.0000 to " in text


@pytest.mark.parametrize(("share", "n"), [(1.0, 60), (0.0, 60), (0.9, 20), (0.5, 1)])
def test_wilson_is_scipys(share, n):
    """Against scipy.stats.binomtest's interval; it has a width at accuracy one."""
    expected = stats.binomtest(round(share * n), n).proportion_ci(0.95, "wilson") if share != 0.5 else None
    low, high = wilson(share, n)
    assert expected is None or (low, high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert 0 <= low < high <= 1


def test_interval_over_seeds_is_students(tmp_path):
    """The leaderboard's 95 % interval is SciPy's t interval of the mean."""
    values = [0.5, 0.62, 0.55, 0.71]
    (row,) = summarize(collect(sweep(tmp_path, {"sgd": values})))
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval(row.metrics["val_accuracy"]) == (pytest.approx(low), pytest.approx(high))
    assert f"{low:.4f} to {high:.4f}" in Page(write_report(tmp_path).read_text()).words


def judged(folder):
    records = collect(folder)
    return verdict(summarize(records), SweptKeys(records))


def test_one_seed_has_no_verdict(tmp_path):
    """However far apart: no p, no "yes", no "no"."""
    found = judged(sweep(tmp_path, {"sgd": [0.1], "adam": [0.9], "lion": [0.5]}))
    assert found.headline == "No verdict: each combination has one seed."
    assert (found.settled, found.judged, found.pairs) == (None, None, [])
    assert "p =" not in Page(write_report(tmp_path).read_text()).words.split("What each factor")[0]


def test_a_combination_with_one_seed_is_not_judged_among_others(tmp_path):
    """The lucky single seed is on top of the table, but the verdict is about those with several."""
    found = judged(sweep(tmp_path, {"lucky": [0.99], "adam": [0.9, 0.93, 0.88], "sgd": [0.5, 0.54, 0.47]}))
    assert [row.values["optimizer"] for row in found.rows] == ["lucky", "adam", "sgd"]
    assert found.judged[0] == "one seed: no verdict" and found.judged[1] == "–" and found.judged[2].startswith("yes")
    assert found.settled and any("First: optimizer=adam" in line for line in found.lines)


def test_missing_seeds_are_adjusted_for(tmp_path):
    """A combination that missed the hard seed does not lead by that: the order is by least-squares means."""
    values = {"adam": [0.80, 0.81, 0.60], "sgd": [0.78, 0.785]}
    found = judged(sweep(tmp_path, values))
    assert [row.values["optimizer"] for row in found.rows] == ["adam", "sgd"]  # plain means say sgd
    means, *_ = dense([dict(enumerate(row)) for row in values.values()])
    assert found.adjusted == pytest.approx(means.tolist())
    page = Page(write_report(tmp_path).read_text())
    assert f"{means[1]:.4f}" in page.words and "adjusted mean" in page.words


def test_runs_that_did_not_finish_are_left_out_and_counted(tmp_path):
    """Failed, pruned and diverged runs are in no statistic, whatever number they hold."""
    sweep(tmp_path, {"sgd": [0.5, 0.6, 0.7], "adam": [0.52, 0.6, 0.69]})
    for seed, status in enumerate(("failed", "pruned", "diverged", "out_of_memory"), 3):
        write_run(tmp_path / status, status, swept={"optimizer": "sgd", "seed": seed}, val_accuracy=0.01)
    page = judged(tmp_path)
    assert page.rows[1].metrics["val_accuracy"].mean == pytest.approx(0.6)
    assert "Left out of all means: 1 diverged, 1 failed, 1 out of memory, 1 pruned." in page.notes


def test_selection_is_on_validation_accuracy(tmp_path):
    """Turning all test accuracies round changes no order and no verdict."""
    values = {"sgd": [0.5, 0.6, 0.7], "adam": [0.72, 0.8, 0.89]}
    for name, sign in (("one", 1), ("other", -1)):
        for optimizer, column in values.items():
            for seed, value in enumerate(column):
                swept = {"optimizer": optimizer, "seed": seed}
                run = tmp_path / name / f"{optimizer}{seed}"
                write_run(run, swept=swept, val_accuracy=value, test_accuracy=0.5 + sign * (value - 0.5))
    one, other = judged(tmp_path / "one"), judged(tmp_path / "other")
    assert (one.headline, one.lines, one.judged) == (other.headline, other.lines, other.judged)
    assert one.rows[0].values == other.rows[0].values == {"optimizer": "adam"}


def test_runs_without_a_validation_split_are_not_ordered(tmp_path):
    """No validation accuracy: nothing is selected, and nothing falls over."""
    for seed in range(2):
        write_run(tmp_path / f"{seed}", swept={"optimizer": "sgd", "seed": seed}, test_accuracy=0.9)
    assert "no run has a validation accuracy" in Page(write_report(tmp_path).read_text()).words


def test_a_chance_of_the_validation_images_is_named(tmp_path):
    """The page says how few images all seeds were measured on, with Wilson's interval of the first's accuracy."""
    for optimizer, column in {"sgd": [0.5, 0.6, 0.7], "adam": [0.72, 0.8, 0.88]}.items():
        for seed, value in enumerate(column):
            swept = {"optimizer": optimizer, "seed": seed}
            write_run(tmp_path / f"{optimizer}{seed}", swept=swept, val_accuracy=value, data={"val": 20})
    page = Page(write_report(tmp_path).read_text())
    low, high = stats.binomtest(16, 20).proportion_ci(0.95, "wilson")
    assert "same 20 validation images" in page.words and f"leaves {low:.4f} to {high:.4f} open" in page.words


def test_the_first_report_of_a_newcomer_has_a_width(tmp_path):
    """Two seeds at accuracy one: no verdict, and still what the few validation images leave open."""
    for seed in range(2):
        write_run(tmp_path / f"{seed}", swept={"seed": seed}, val_accuracy=1.0, data={"val": 60})
    words = Page(write_report(tmp_path).read_text()).words
    assert "leaves 0.9398 to 1.0000 open" in words and "± 0.0000 in an accuracy" not in words


def test_equal_seeds_have_no_interval():
    """A handful of equal counts of images is no proof that the mean is exact."""
    assert interval(Statistic(2, 0.9653, 0.0)) is None and interval(Statistic(1, 0.9653, None)) is None
    low, high = interval(Statistic(4, 0.5, 0.02))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 3, loc=0.5, scale=0.01))
