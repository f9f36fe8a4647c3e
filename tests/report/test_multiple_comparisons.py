"""The statistics of the report against SciPy and against least squares by hand."""

import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.equal_runs import SPREADS, Case, false_change, false_effect, false_pair, found_pairs, missed_mean
from benchmarks.false_alarms import highest, rate
from runner.report import write_report
from runner.report.results.collect import METRICS, RunRecord, collect
from runner.report.results.keys import SweptKeys
from runner.report.results.tables import Statistic, summarize
from runner.report.statistics.block_design import fit, layout, solve
from runner.report.statistics.conclusion import interval, verdict
from runner.report.statistics.distributions import wilson
from runner.report.statistics.multiple_comparisons import compare, differences, further, probabilities
from runner.report.statistics.studentized import quantile, tail
from tests.shared.reports import Page, sweep, write_run


def cells(values, missing=()):
    """`values` [k, b] as mappings seed -> value, without the cells (combination, seed) of `missing`."""
    return [{str(j): v for j, v in enumerate(row) if (i, j) not in missing} for i, row in enumerate(values.tolist())]


def dense(found):
    """metric ~ combination + seed by NumPy's least squares: means over all seeds, covariance / sigma², sigma, df."""
    seeds = list(dict.fromkeys(seed for cell in found for seed in cell))
    rows = [(i, seeds.index(seed), value) for i, cell in enumerate(found) for seed, value in cell.items()]
    design = np.array([[*np.eye(len(found))[i], *np.eye(len(seeds))[j][1:]] for i, j, _ in rows])
    y = np.array([value for *_, value in rows])
    solution = np.linalg.lstsq(design, y)[0]
    df = len(y) - np.linalg.matrix_rank(design)
    to_means = np.hstack([np.eye(len(found)), np.full((len(found), len(seeds) - 1), 1 / len(seeds))])
    covariance = to_means @ np.linalg.pinv(design.T @ design) @ to_means.T
    return to_means @ solution, covariance, (((y - design @ solution) ** 2).sum() / df) ** 0.5, df


@pytest.mark.parametrize("missing", [(), [(0, 1), (2, 3)], [(0, 0), (0, 1), (0, 2), (3, 3)]])
def test_fit_is_least_squares_with_and_without_missing_cells(missing):
    """Means, residual, degrees of freedom and errors of differences are those of the dense two-way model."""
    rng = np.random.default_rng(1)
    found = cells(rng.normal(size=(5, 4)) + 3 * rng.normal(size=4), missing)
    fitted = fit(found)
    means, covariance, deviation, df = dense(found)
    np.testing.assert_allclose(fitted.means, means)
    assert (fitted.deviation, fitted.layout.df) == (pytest.approx(deviation), df)
    assert (fitted.layout.blocked, fitted.layout.balanced) == (True, not missing)
    variances = [covariance[0, 0] + covariance[i, i] - 2 * covariance[0, i] for i in (1, 2, 3, 4)]
    first, others = np.zeros(4, dtype=int), np.arange(1, 5)
    np.testing.assert_allclose(fitted.difference(first, others), deviation * np.sqrt(variances))


@pytest.mark.parametrize("blocked", [True, False])
@pytest.mark.parametrize("missing", [(), [(0, 1), (2, 3)], [(0, 0), (0, 1), (3, 3)]])
def test_own_variances_meet_their_expectations(missing, blocked):
    """Variances and errors of differences are those of the dense model: expected squares of residuals by its matrix."""
    rng = np.random.default_rng(11)
    found = cells(rng.normal(size=(5, 5)) * np.arange(1, 6)[:, None] + 3 * rng.normal(size=5), missing)
    if not blocked:
        found = [{f"{i}-{seed}": value for seed, value in cell.items()} for i, cell in enumerate(found)]
    fitted = fit(found)
    rows = np.array([i for i, cell in enumerate(found) for _ in cell])
    seeds = np.array([int(seed[-1]) for cell in found for seed in cell])
    y = np.array([value for cell in found for value in cell.values()])
    design = np.hstack([np.eye(5)[rows], np.eye(5)[seeds][:, 1:] if blocked else np.zeros((len(y), 0))])
    left = np.eye(len(y)) - design @ np.linalg.pinv(design)
    matrix = [[(left[np.ix_(rows == i, rows == j)] ** 2).sum() for j in range(5)] for i in range(5)]
    variances = np.linalg.solve(matrix, [((left @ y)[rows == i] ** 2).sum() for i in range(5)])
    np.testing.assert_allclose(fitted.variances, variances)
    to_means = np.hstack([np.eye(5), np.full((5, design.shape[1] - 5), 1 / 5)]) @ np.linalg.pinv(design)
    covariance = to_means @ np.diag(np.maximum(variances, -np.inf)[rows]) @ to_means.T
    ones, others = np.triu_indices(5, 1)
    error, _ = fitted.own_difference(ones, others)
    squares = covariance[ones, ones] + covariance[others, others] - 2 * covariance[ones, others]
    np.testing.assert_allclose(error**2, squares)


def test_studentized_range_is_scipys():
    """Tail and quantile against SciPy's, from one degree of freedom to many, from two means to hundreds."""
    for k, df in ((2, 1.0), (3, 2.0), (9, 3.7), (24, 2.0), (48, 8.0), (336, 672.0)):
        q = np.array([1.0, 4.0, 9.0, 30.0])
        np.testing.assert_allclose(tail(q, k, df), stats.studentized_range.sf(q, k, df), atol=1e-7)
        assert stats.studentized_range.sf(quantile(k, 0.05)(df), k, df) == pytest.approx(0.05, abs=1e-5)


def test_two_combinations_without_a_common_seed_are_two_samples():
    """p is the larger one of the t test's and of Welch's with one degree of freedom less."""
    one, other = [0.5, 0.6, 0.55, 0.58], [0.7, 0.4, 0.75]
    fitted = fit([dict(zip("abcd", one)), dict(zip("efg", other))])
    assert not fitted.layout.blocked and fitted.layout.df == 5
    (pair,) = compare(fitted).pairs
    welch = stats.ttest_ind(one, other, equal_var=False)
    _, df = fitted.own_difference(np.array([0]), np.array([1]))
    assert df == pytest.approx(welch.df)
    cautious = 2 * stats.t.sf(abs(welch.statistic), max(welch.df - 1, 2))
    assert pair.p == pytest.approx(max(cautious, stats.ttest_ind(one, other).pvalue))


def test_two_combinations_are_a_paired_t_test():
    """Seeds as blocks with two combinations: p and interval are those of SciPy's paired t test."""
    rng = np.random.default_rng(2)
    one, other = (rng.normal(size=(2, 6)) + rng.normal(size=6)) / 10
    comparison = compare(fit(cells(np.array([one, other]))))
    (pair,) = comparison.pairs
    sign = 1 if one.mean() > other.mean() else -1
    expected = stats.ttest_rel(sign * one, sign * other)
    bounds = expected.confidence_interval(0.95)
    assert pair.p == pytest.approx(expected.pvalue)
    assert (pair.low, pair.high) == (pytest.approx(bounds.low), pytest.approx(bounds.high))


def test_pairs_are_tukeys_and_games_and_howells_as_scipy_has_them():
    """Without blocks p and interval of each pair are the larger ones of scipy.stats.tukey_hsd's two."""
    rng = np.random.default_rng(3)
    groups = [rng.normal(mean, 0.03, n) for mean, n in ((0, 4), (0.03, 4), (0.06, 3), (0.2, 5))]
    fitted = fit([{f"{i}-{j}": float(v) for j, v in enumerate(group)} for i, group in enumerate(groups)])
    both = [stats.tukey_hsd(*groups, equal_var=equal) for equal in (True, False)]
    bounds = [one.confidence_interval(0.95) for one in both]
    comparison = compare(fitted)
    assert len(comparison.pairs) == 6
    for pair in comparison.pairs:
        at = pair.first, pair.second
        p = max(one.pvalue[at] for one in both)
        assert pair.p == pytest.approx(p, rel=1e-5)
        assert pair.low == pytest.approx(min(one.low[at] for one in bounds), abs=1e-6)
        assert pair.high == pytest.approx(max(one.high[at] for one in bounds), abs=1e-6)
        assert pair.is_significant == (p < 0.05) == (pair.low > 0)


def test_blocked_pairs_are_by_the_formulas():
    """Balanced blocks: the studentized range of d / (s / √b), and of Grubbs's variances with Satterthwaite's df."""
    rng = np.random.default_rng(4)
    y = (rng.normal(size=(6, 5)) * [[1], [1], [2], [1], [3], [1]] + np.arange(6)[:, None] + 3 * rng.normal(size=5)) / 50
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    squares = (residual**2).sum(1)
    pooled = squares.sum() / 20
    own = (squares / 4 - pooled / 6) / (1 - 2 / 6)  # Grubbs 1948
    noise = np.linalg.inv(4 * ((1 - 2 / 6) * np.eye(6) + np.ones((6, 6)) / 36))
    for pair in compare(fit(cells(y))).pairs:
        at = [pair.first, pair.second]
        d, pair_noise, pair_own = y[pair.first].mean() - y[pair.second].mean(), noise[np.ix_(at, at)], own[at]
        df = np.clip(pair_own.sum() ** 2 / (pair_own @ pair_noise @ pair_own), 4, 8)
        by_pooled = stats.studentized_range.sf(d / (pooled / 5) ** 0.5, 6, 20)
        by_own = stats.studentized_range.sf(d / (pair_own.sum() / 10) ** 0.5, 6, df)
        assert pair.p == pytest.approx(max(by_pooled, by_own), abs=1e-7)


def test_many_combinations_are_compared_as_few_are():
    """The leader against each, corrected for all pairs: the studentized range of twelve."""
    rng = np.random.default_rng(5)
    y = (rng.normal(size=(12, 4)) + np.arange(12)[:, None] * 2) / 100
    fitted = fit(cells(y))
    comparison = compare(fitted)
    assert comparison.leader == int(np.argmax(y.mean(1))) and len(comparison.pairs) == 11
    everything = differences(fitted, *np.triu_indices(12, 1))
    for pair in comparison.pairs:
        d = y[pair.first].mean() - y[pair.second].mean()
        assert pair.p >= stats.studentized_range.sf(d / (fitted.deviation / 2), 12, fitted.layout.df) - 1e-7
        assert pair.is_significant == (pair.low > 0) == (pair.p < 0.05) and comparison.against(pair.second) is pair
    assert everything.is_significant.sum() > 0 and probabilities(everything, fitted).shape == (66,)


def test_of_equal_means_the_first_in_the_table_leads():
    """Means that are equal but for rounding: page and verdict name the same combination."""
    values = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.3, 0.1, 0.4, 0.2]]
    assert compare(fit([dict(zip("abcd", row)) for row in values])).leader == 0


def test_hundreds_of_combinations_are_compared_in_a_second():
    """336 combinations with seeds missing: fit and comparison."""
    rng = np.random.default_rng(6)
    found = cells(rng.normal(size=(336, 5)), [(i, i % 5) for i in range(0, 336, 3)])
    start = time.process_time()
    assert len(compare(fit(found)).pairs) == 335
    assert time.process_time() - start < 2


@pytest.mark.parametrize("size", [1.5, 2.0, 4.0])
def test_further_seeds_have_the_power(size):
    """With the seeds it asks for four fifths of simulated repetitions find the difference; with a third fewer, not."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=(4, 3))
    values = (values - values.mean(1, keepdims=True)) / values.std(1, ddof=1, keepdims=True)
    found = [{f"{i}-{j}": v for j, v in enumerate(row)} for i, row in enumerate(values + [[0], [0], [0], [size]])]
    fitted = fit(found)
    ones, others = np.array([3]), np.array([0])
    n = int(3 + further(differences(fitted, ones, others), fitted, ones, others)[0])

    def power(n):
        """The share of 400 repetitions in which the report's rule finds the pair, every deviation being one."""
        hits = 0
        for _ in range(400):
            y = rng.normal(size=(4, n)) + np.array([0, 0, 0, size])[:, None]
            drawn = fit([{f"{i}-{j}": v for j, v in enumerate(row)} for i, row in enumerate(y.tolist())])
            hits += differences(drawn, ones, others).is_significant[0]
        return hits / 400

    assert 0.76 < power(n) < 0.95 and power(max(2, n * 2 // 3)) < 0.76


def test_no_number_of_seeds_tells_equals_apart():
    """A difference of nothing asks for no number at all."""
    fitted = fit(cells(np.random.default_rng(7).normal(size=(3, 3))))
    ones, others = np.array([0]), np.array([1])
    same = replace(differences(fitted, ones, others), difference=np.zeros(1))
    assert further(same, fitted, ones, others)[0] == np.inf


QUICK = [Case(12, 3, "quarter at 4"), Case(9, 5, "one at 5"), Case(24, 3, "equal", blocked=False, missing=True)]
SLOW = [Case(k, n, spread) for k in (4, 9, 24, 48) for n in (3, 5) for spread in SPREADS]
CLAIMS = [false_pair, false_effect, missed_mean, false_change]


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("case", QUICK)
def test_equal_combinations_are_seldom_told_apart(claim, case):
    """Null simulation: a false claim in no more draws than 5 %, by a binomial test at 1 %."""
    assert rate(claim, case, 1000) <= highest(1000)


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("case", [*SLOW, *(replace(case, blocked=False) for case in SLOW)])
def test_no_claim_is_above_its_level(claim, case):
    """The same for more sizes and spreads, with blocks of seeds and without."""
    assert rate(claim, case, 2000) <= highest(2000)


def test_true_differences_are_found():
    """Four deviations, 8 combinations of 5 seeds: mostly found. The rule is no plain refusal."""
    assert rate(found_pairs, Case(8, 5, "equal"), 200) > 0.7


def test_many_draws_at_once_are_the_draws_one_by_one():
    """What the simulation asks in one array is what the page asks of each folder."""
    case = Case(6, 4, "one at 5", missing=True)
    values = case.draw(np.random.default_rng(0), 5)
    ones, others = np.triu_indices(6, 1)
    together = differences(solve(layout(case.known), values), ones, others)
    for draw, one in enumerate(values):
        missing = list(zip(*np.nonzero(~case.known)))
        alone = differences(fit(cells(one, missing)), ones, others)
        np.testing.assert_allclose(together.margin[draw], alone.margin)
        np.testing.assert_allclose(together.difference[draw], alone.difference)


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
