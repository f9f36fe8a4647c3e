"""`python -m runner.compare`, and the report of a real sweep through the command line."""

import math
import re

import numpy as np
import pytest
from scipy import stats

from runner.compare.__main__ import main
from runner.compare.paired import further, overall, paired
from tests.shared.reports import Page, sweep, write_run


def table(text):
    """First column -> the other columns, of rich's table."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}


def both(tmp_path, one, other):
    return [str(sweep(tmp_path / name, values)) for name, values in (("one", one), ("other", other))]


def test_one_combination_is_a_paired_t_test(tmp_path, capfd):
    """Difference, interval and p of a lone combination are those of scipy.stats.ttest_rel; unshared seeds stay out."""
    one, other = [0.50, 0.61, 0.55, 0.58], [0.60, 0.69, 0.68, 0.63]
    assert main(both(tmp_path, {"sgd": one}, {"sgd": [*other, 0.1]})) == 0
    expected = stats.ttest_rel(other, one)
    low, high = expected.confidence_interval(0.95)
    out = capfd.readouterr().out
    row = table(out)["optimizer=sgd"]
    mean = np.mean(other) - np.mean(one)
    assert row[:4] == ["4", f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{mean:+.4f}"]
    assert row[4] == f"yes, p = {expected.pvalue:.2g}"


def test_the_residual_is_pooled_and_p_corrected():
    """Several combinations: p is the larger of Holm's by the pooled s² and Holm's of each combination's own t test."""
    rng = np.random.default_rng(0)
    values = [rng.normal(mean, 0.1, n) for mean, n in ((0, 3), (0.3, 4), (0.05, 3))]
    found, deviation, df = paired([dict(enumerate(v)) for v in values])
    assert df == 7 and deviation == pytest.approx((sum(((v - v.mean()) ** 2).sum() for v in values) / 7) ** 0.5)
    raw = [2 * stats.t.sf(abs(v.mean()) / (deviation / len(v) ** 0.5), 7) for v in values]
    own = [stats.ttest_1samp(v, 0).pvalue for v in values]
    assert found[1].p == pytest.approx(max(3 * min(raw), 3 * min(own))) and np.argmin(raw) == np.argmin(own) == 1
    half = max(stats.t.isf(0.025, 7) * deviation / 2, stats.t.isf(0.025, 3) * values[1].std(ddof=1) / 2)
    assert (found[1].low, found[1].high) == (pytest.approx(found[1].mean - half), pytest.approx(found[1].mean + half))
    assert [one.mean for one in found] == pytest.approx([v.mean() for v in values])


def test_further_seeds_have_the_power():
    """With so many pairs a t test finds the difference in four of five simulated repetitions."""
    rng = np.random.default_rng(1)
    n = int(3 + further(0.5, 3, 1.0, 1))
    found = stats.ttest_1samp(rng.normal(0.5, 1, (4000, n)), 0, axis=1).pvalue < 0.05
    assert 0.75 < found.mean() < 0.9
    assert further(0.0, 3, 1.0, 1) == math.inf


def test_one_further_seed_shows_a_large_difference():
    """SciPy's noncentral t distribution is NaN there for some degrees of freedom."""
    assert {float(further(0.5, seeds, 1e-4, 1, own=1e-4)) for seeds in range(3, 400)} == {1.0}


def test_the_whole_is_a_paired_test_of_the_seeds_means():
    """Over all combinations, of the seeds that all of them have: p is the larger one of the t test of the seeds' mean
    differences and of that by the residual within the combinations."""
    rng = np.random.default_rng(2)
    y = rng.normal(0.3, 1, (3, 5))
    pairs = [dict(enumerate(row)) for row in y.tolist()]
    del pairs[1][4]
    found = overall(pairs)
    shared = y[:, :4]
    seeds = stats.ttest_1samp(shared.mean(0), 0)
    error = (((shared - shared.mean(1, keepdims=True)) ** 2).sum() / 9 / 12) ** 0.5
    within = 2 * stats.t.sf(abs(shared.mean()) / error, 9)
    assert (found.seeds, found.mean) == (4, pytest.approx(shared.mean()))
    assert found.p == pytest.approx(max(seeds.pvalue, within))


def test_seeds_that_agree_by_chance_are_no_change():
    """Three seeds' means that happen to agree to a digit: the combinations' own spread says that it is chance."""
    pairs = [{"0": 0.101, "1": -0.1, "2": 0.0}, {"0": -0.1, "1": 0.102, "2": 0.0009}, {"0": 0.0, "1": 0.0, "2": 0.001}]
    whole = overall(pairs)
    assert stats.ttest_1samp([np.mean([pair[s] for pair in pairs]) for s in "012"], 0).pvalue < 0.05
    assert whole.p > 0.5 and not whole.is_significant and whole.low < 0 < whole.high


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"sgd": [0.5]}, {"sgd": [0.9]}, "two settle nothing"),
        ({"sgd": [0.5, 0.61]}, {"sgd": [0.9, 0.99]}, "two seeds: no verdict"),
        ({"sgd": [0.5, 0.6, 0.7]}, {"sgd": [0.5, 0.6, 0.7]}, "no difference in any seed"),
        ({"sgd": [0.5, 0.625, 0.25]}, {"sgd": [0.75, 0.875, 0.5]}, "no residual: no verdict"),
        ({"sgd": [0.5, 0.6, 0.7], "adam": [0.5]}, {"sgd": [0.5, 0.7, 0.6], "adam": [0.9]}, "one seed: no verdict"),
        ({"sgd": [0.5, 0.6, 0.7]}, {"sgd": [0.51, 0.66, 0.65]}, "more seeds"),
    ],
)
def test_what_cannot_be_judged_is_not(tmp_path, capfd, one, other, said):
    """One seed, equal results, or no residual: said in words, without a p."""
    assert main(both(tmp_path, one, other)) == 0
    assert said in capfd.readouterr().out


@pytest.mark.parametrize("where", ["one", "other"])
def test_a_combination_whose_bad_seeds_are_gone_is_not_compared(tmp_path, capfd, where):
    """In whichever folder seeds diverged: the combination has no line, the overall mean is without it, and why."""
    values = {"sgd": [0.5, 0.61, 0.7], "adam": [0.6, 0.64, 0.71]}
    folders = both(tmp_path, values, values)
    for seed in (3, 4):
        run = tmp_path / where / f"bad{seed}"
        write_run(run, "diverged", swept={"optimizer": "adam", "seed": seed}, val_accuracy=0.99)
    assert main(folders) == 0
    out = capfd.readouterr().out
    assert list(table(out)) == ["optimizer=sgd"] and "Over 1 combination" in out
    assert f"optimizer=adam: 2 of 5 seeds diverged in {tmp_path / where}" in " ".join(out.split())
    for seed in (3, 4):
        write_run(tmp_path / where / f"worse{seed}", "failed", swept={"optimizer": "sgd", "seed": seed})
    assert main(folders) == 2
    assert "no combination is complete in both folders" in capfd.readouterr().err


def test_combinations_are_matched_by_what_either_sweep_varies(tmp_path, capfd):
    """What one sweep varies and the other holds fixed is looked up; what is fixed in both but differs is named."""
    for name, rates, epochs in (("one", ("1e-3", "0.1"), 5), ("other", ("0.001",), 9)):
        for rate in rates:
            for seed in range(3):
                swept = {"seed": seed} | ({"optimizer.lr": float(rate)} if len(rates) > 1 else {})
                overrides = [f"optimizer.lr={rate}", f"epochs={epochs}", f"seed={seed}", f"name={name}"]
                accuracy = 0.5 + seed / 10 + (epochs == 9) * (0.2 + seed / 97)
                run = write_run(
                    tmp_path / name / f"{rate}-{seed}", swept=swept, overrides=overrides, val_accuracy=accuracy
                )
                (run / "config.yaml").write_text(f"optimizer:\n  lr: {rate}\nseed: {seed}\n")
    assert main([str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    out = capfd.readouterr().out
    assert list(table(out)) == ["optimizer.lr=0.001"] and "epochs: 5 against 9" in out
    assert f"Only in {tmp_path / 'one'}, or without a shared seed: 1 combination." in out
    assert out.count("What else differs") == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "at least two folders"),
        (["one"], "at least two folders"),
        (["one", "one"], "named twice"),
        (["one", "none"], "no such folder"),
        (["one", "empty"], "holds no runs"),
        (["one", "running"], "no run of it has finished"),
        (["one", "elsewhere"], "no combination stands in both"),
        (["one", "later"], "no seed in common"),
    ],
)
def test_bad_folders_are_refused_in_a_line(tmp_path, capfd, names, said):
    """Exit code 2, one line on standard error, nothing on standard output."""
    sweep(tmp_path / "one", {"sgd": [0.5, 0.6], "adam": [0.5, 0.6]})
    sweep(tmp_path / "elsewhere", {"lion": [0.5], "newton": [0.5]})
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "running" / "run", "running", swept={"optimizer": "sgd", "seed": 0})
    for optimizer in ("sgd", "adam"):
        write_run(tmp_path / "later" / optimizer, swept={"optimizer": optimizer, "seed": 7}, val_accuracy=0.5)
    assert main([str(tmp_path / name) for name in names]) == 2
    out, err = capfd.readouterr()
    assert said in err and err.count("\n") == 1 and out == ""


def test_several_folders_are_each_compared_with_the_first(tmp_path, capfd):
    """Three folders give two tables."""
    folders = [str(sweep(tmp_path / name, {"sgd": [0.5, 0.6]})) for name in "abc"]
    assert main(folders) == 0
    out = capfd.readouterr().out
    assert [f"{folder} minus {folders[0]}" in out for folder in folders] == [False, True, True]


def test_a_real_sweep_reports_and_compares(cli, tmp_path, capfd):
    """The command as typed: verdict, effects, heat map on the page; a second sweep is matched by what it fixes."""
    more = ["seed=0,1,2", "model=mlp", "threads=1", "log.tensorboard=false", "data.limit=200"]
    grid = ["optimizer=sgd,adam", "regularization=[],[dropout]"]
    assert cli("-m", *grid, *more, "epochs=1", "name=short")[0] == 0
    assert cli("-m", "optimizer=sgd", "regularization=[dropout]", *more, "epochs=2", "name=long")[0] == 0
    words = Page((tmp_path / "outputs" / "short" / "report.html").read_text()).words
    assert re.search(r"distinguishable from .* with these 3 seeds", words)
    for term in ("Share of the variance", "optimizer × regularization", "Parallel coordinates", "Time and memory"):
        assert term in words
    assert main(["outputs/short", "outputs/long"]) == 0
    out = capfd.readouterr().out
    assert list(table(out)) == ["optimizer=sgd, regularization=[dropout]"] and "epochs: 1 against 2" in out
    assert "Only in outputs/short, or without a shared seed: 3 combinations." in out
