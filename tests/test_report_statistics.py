"""The statistics of the report against SciPy and against least squares by hand."""

import numpy as np
import pytest
from scipy import stats

from runner.report import write_report
from runner.report.best import HSU, TUKEY, compare, further
from runner.report.blocked import fit
from runner.report.collect import collect
from runner.report.tables import Keys, summarize
from runner.report.verdict import half_interval, verdict
from tests.test_report import Page, sweep, write_run


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
    assert (fitted.deviation, fitted.df) == (pytest.approx(deviation), df)
    assert (fitted.blocked, fitted.balanced) == (True, not missing)
    variances = [covariance[0, 0] + covariance[i, i] - 2 * covariance[0, i] for i in (1, 2, 3, 4)]
    np.testing.assert_allclose(fitted.difference(0, [1, 2, 3, 4]), deviation * np.sqrt(variances))


def test_combinations_without_a_common_seed_are_compared_one_way():
    """Where the seeds do not link the combinations, p is that of the t test for independent samples."""
    one, other = [0.5, 0.6, 0.55], [0.7, 0.64, 0.75]
    fitted = fit([dict(zip("abc", one)), dict(zip("def", other))])
    assert not fitted.blocked and fitted.df == 4
    (pair,) = compare(fitted).pairs
    assert pair.p == pytest.approx(stats.ttest_ind(one, other).pvalue)


def test_two_combinations_are_a_paired_t_test():
    """Seeds as blocks with two combinations: p and interval are those of SciPy's paired t test."""
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 6)) + rng.normal(size=6)
    comparison = compare(fit(cells(np.array([one, other]))))
    (pair,) = comparison.pairs
    sign = 1 if one.mean() > other.mean() else -1
    expected = stats.ttest_rel(sign * one, sign * other)
    interval = expected.confidence_interval(0.95)
    assert pair.p == pytest.approx(expected.pvalue)
    assert (pair.low, pair.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_pairs_are_tukeys_as_scipy_has_them():
    """Without blocks (no shared seeds) all p values and intervals agree with scipy.stats.tukey_hsd, Kramer's too."""
    rng = np.random.default_rng(3)
    groups = [rng.normal(mean, 1, n) for mean, n in ((0, 4), (1, 4), (2, 3), (2.2, 5))]
    fitted = fit([{f"{i}-{j}": float(v) for j, v in enumerate(group)} for i, group in enumerate(groups)])
    expected = stats.tukey_hsd(*groups)
    interval = expected.confidence_interval(0.95)
    comparison = compare(fitted)
    assert len(comparison.pairs) == 6 and "Tukey" in comparison.method
    for pair in comparison.pairs:
        at = pair.one, pair.other
        assert pair.p == pytest.approx(expected.pvalue[at], rel=1e-6)
        assert (pair.low, pair.high) == (pytest.approx(interval.low[at]), pytest.approx(interval.high[at]))
        assert pair.told == (expected.pvalue[at] < 0.05)


def test_blocked_pairs_are_tukeys_by_the_formula():
    """Balanced blocks: p is the studentized range of d / (s / √b) with (k - 1)(b - 1) degrees of freedom."""
    rng = np.random.default_rng(4)
    y = rng.normal(size=(4, 5)) + np.arange(4)[:, None] + 3 * rng.normal(size=5)
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    s = ((residual**2).sum() / 12) ** 0.5
    for pair in compare(fit(cells(y))).pairs:
        d = y[pair.one].mean() - y[pair.other].mean()
        assert pair.p == pytest.approx(stats.studentized_range.sf(d / (s / 5**0.5), 4, 12))


def test_many_combinations_are_compared_with_the_best():
    """Hsu's p is that of the maximum of equicorrelated t values: SciPy's multivariate t, and each is one-sided."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=(9, 4)) + np.arange(9)[:, None] * 0.4
    fitted = fit(cells(y))
    comparison = compare(fitted)
    assert "Hsu" in comparison.method and len(comparison.pairs) == 8
    assert comparison.leader == int(np.argmax(y.mean(1))) and {pair.one for pair in comparison.pairs} == {
        comparison.leader
    }
    shape = np.full((8, 8), 0.5) + 0.5 * np.eye(8)
    for pair in comparison.pairs:
        t = pair.difference / (fitted.deviation * 0.5**0.5)
        expected = 1 - stats.multivariate_t.cdf(np.full(8, t), df=24, shape=shape, random_state=0, maxpts=200_000)
        assert pair.p == pytest.approx(expected, abs=2e-3) and pair.told == (pair.low > 0) == (pair.p < 0.05)


@pytest.mark.parametrize(("method", "k"), [(TUKEY, 4), (HSU, 12)])
def test_quantiles_invert_the_p_values(method, k):
    """At the critical value p is 5 %."""
    assert method.p(np.array([method.quantile(k, 9)]), k, 9)[0] == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("difference", [0.6, 1.0, 2.0])
def test_further_seeds_have_the_power(difference):
    """With the seeds it asks for, four fifths of simulated repetitions find the difference; with half of them, not."""
    rng = np.random.default_rng(6)
    fitted = fit(cells(rng.normal(size=(4, 3))))
    more = further(np.array([difference * fitted.deviation]), fitted, TUKEY)[0]

    def power(n):
        """The share of 20,000 simulated t values beyond the critical one, by the definition of t."""
        df = 3 * (n - 1)
        noise = rng.normal(difference * (n / 2) ** 0.5, 1, 20_000)
        found = noise / np.sqrt(rng.chisquare(df, 20_000) / df)
        return np.mean(found > stats.studentized_range.isf(0.05, 4, df) / 2**0.5)

    n = int(3 + more)
    assert 0.78 < power(n) < 0.93 and power(max(2, n // 2)) < 0.78


def test_no_number_of_seeds_tells_equals_apart():
    """A difference of nothing asks for no number at all."""
    fitted = fit(cells(np.random.default_rng(7).normal(size=(3, 3))))
    assert further(np.array([0.0]), fitted, TUKEY)[0] == np.inf


def test_interval_over_seeds_is_students(tmp_path):
    """The leaderboard's 95 % interval is SciPy's t interval of the mean."""
    values = [0.5, 0.62, 0.55, 0.71]
    (row,) = summarize(collect(sweep(tmp_path, {"sgd": values})))
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert half_interval(row.metrics["val_accuracy"]) == pytest.approx((high - low) / 2)
    assert f"{low:.4f} to {high:.4f}" in Page(write_report(tmp_path).read_text()).words


def judged(folder):
    records = collect(folder)
    return verdict(summarize(records), Keys(records))


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
    values = {"sgd": [0.5, 0.6, 0.7], "adam": [0.52, 0.6, 0.69]}
    sweep(tmp_path / "clean", values)
    sweep(tmp_path / "mixed", values)
    for seed, status in enumerate(("failed", "pruned", "diverged", "out_of_memory"), 3):
        write_run(tmp_path / "mixed" / status, status, swept={"optimizer": "sgd", "seed": seed}, val_accuracy=0.01)
    clean, mixed = judged(tmp_path / "clean"), judged(tmp_path / "mixed")
    assert mixed.judged == clean.judged and mixed.lines == clean.lines
    assert mixed.notes[-1] == "Left out of all means: 1 failed, 1 out of memory, 1 diverged, 1 pruned."


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
    """The page says how few images all seeds were measured on, with the binomial standard deviation."""
    for optimizer, column in {"sgd": [0.5, 0.6, 0.7], "adam": [0.72, 0.8, 0.88]}.items():
        for seed, value in enumerate(column):
            swept = {"optimizer": optimizer, "seed": seed}
            write_run(tmp_path / f"{optimizer}{seed}", swept=swept, val_accuracy=value, data={"val": 20})
    page = Page(write_report(tmp_path).read_text())
    assert "same 20 validation images" in page.words and f"± {(0.8 * 0.2 / 20) ** 0.5:.4f}" in page.words
