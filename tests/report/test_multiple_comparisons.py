"""Comparisons of combinations against SciPy and against least squares by hand."""

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.equal_runs import SPREADS, Case, false_change, false_effect, false_pair, found_pairs, missed_mean
from benchmarks.false_alarms import highest, rate
from runner.report.statistics.block_design import fit, layout, solve
from runner.report.statistics.multiple_comparisons import compare, differences, further, probabilities
from runner.report.statistics.studentized import quantile, tail
from tests.shared.least_squares import dense


def cells(values, missing=()):
    """`values` [k, b] as mappings seed -> value, without the cells (combination, seed) of `missing`."""
    return [{str(j): v for j, v in enumerate(row) if (i, j) not in missing} for i, row in enumerate(values.tolist())]


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
