"""The effects of the factors: numbers against least squares by hand, and what is drawn of them."""

import itertools
import re

import numpy as np
import pytest
from scipy import stats

from runner.report import ensemble_section as ensembles
from runner.report import write_report
from runner.report.factor_section import design
from runner.report.results.collect import collect
from runner.report.results.keys import SweptKeys
from runner.report.results.tables import by_seed, summarize
from runner.report.statistics.effects import effects, margins
from runner.report.statistics.factors import factors
from runner.report.statistics.unequal_spread import holm
from runner.task import ensemble_facts
from tests.shared.reports import Page, write_run

OPTIMIZERS, RATES, DEPTHS = ("sgd", "adam"), (1e-3, 1e-2, 1e-1), (0, 1, "all")


def product(folder, missing=(), seeds=3, noise=0.01):
    """2 x 3 x 3 combinations with effects and an interaction; `missing` are numbers of combinations left out."""
    rng = np.random.default_rng(0)
    luck = rng.normal(0, 0.02, seeds)
    for number, (o, r, d) in enumerate(itertools.product(range(2), range(3), range(3))):
        for seed in range(seeds):
            value = 0.7 + 0.05 * o - 0.03 * (r - 1) ** 2 + 0.04 * o * r - 0.02 * d + luck[seed] + rng.normal(0, noise)
            swept = {
                "optimizer": OPTIMIZERS[o],
                "optimizer.lr": RATES[r],
                "transfer.freeze_depth": DEPTHS[d],
                "seed": seed,
            }
            if number not in missing:
                name = f"run{number}-{seed}"
                write_run(folder / name, swept=swept, val_accuracy=float(value), test_accuracy=float(value) - 0.1)
    return folder


def read(folder):
    """(factors, cells, rows) of a folder."""
    records = collect(folder)
    keys = SweptKeys(records)
    rows = summarize(records, keys)
    return factors(rows, [name for name in keys.names if name != "seed"]), [by_seed(row, keys) for row in rows], rows


def columns(found, cells):
    """Dummy columns by hand: y [n], {term: columns} of seed, each factor and each pair."""
    observed = [(i, seed, value) for i, cell in enumerate(cells) for seed, value in cell.items()]
    rows, y = np.array([i for i, *_ in observed]), np.array([value for *_, value in observed])
    blocks = {"seed": np.array([[seed == s for s in ("0", "1", "2")] for _, seed, _ in observed], float)}
    for factor in found:
        blocks[factor.title] = np.eye(len(factor.levels))[factor.codes[rows]]
    for a, b in itertools.combinations(found, 2):
        pair = [np.outer(u, v).ravel() for u, v in zip(blocks[a.title], blocks[b.title])]
        blocks[f"{a.title} × {b.title}"] = np.array(pair)
    blocks["combination"] = np.eye(len(cells))[rows]
    return y, blocks


def residual(y, blocks, names):
    """Residual sum of squares and rank of y ~ 1 + names."""
    design = np.hstack([np.ones((len(y), 1)), *(blocks[name] for name in names)])
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    return ((y - design @ solution) ** 2).sum(), np.linalg.matrix_rank(design)


def by_own_variances(y, blocks, others, term, variances):
    """p of the ANOVA-type statistic by whole projection matrices: F(f1, f2) of y'Qy / tr(QD), Box's two moments."""

    def projection(names):
        design = np.hstack([np.ones((len(y), 1)), *(blocks[name] for name in names)])
        return design @ np.linalg.pinv(design, rcond=1e-10)

    rows = blocks["combination"].argmax(1)
    added = projection([*others, term]) - projection(others)
    left = np.eye(len(y)) - projection(["seed", "combination"])
    k = blocks["combination"].shape[1]
    matrix = np.array([[(left[np.ix_(rows == i, rows == j)] ** 2).sum() for j in range(k)] for i in range(k)])
    squares = np.array([((left @ y)[rows == i] ** 2).sum() for i in range(k)])
    assert variances == pytest.approx(np.linalg.solve(matrix, squares))
    own = np.maximum(variances, 0)
    parts = np.array([np.diag(added)[rows == i].sum() * own[i] for i in range(k)])
    doubled = np.where(np.arange(k) == parts.argmax(), 2.0, 1.0)
    weighted = added @ np.diag((doubled * own)[rows])
    f1 = (doubled @ parts) ** 2 / np.trace(weighted @ weighted)
    f2 = (doubled @ parts) ** 2 / ((doubled * parts) @ np.linalg.inv(matrix) @ (doubled * parts))
    return stats.f.sf(y @ added @ y / parts.sum(), min(max(f1, 1), round(np.trace(added))), max(f2, 1))


@pytest.mark.parametrize("missing", [(), (0, 7, 17)])
def test_sums_of_squares_are_type_two(tmp_path, missing):
    """Shares, degrees of freedom, F and p of every term agree with NumPy, balanced and with missing combinations."""
    found, cells, _ = read(product(tmp_path, missing))
    known = effects(found, cells)
    y, blocks = columns(found, cells)
    total = ((y - y.mean()) ** 2).sum()
    pooled, rank = residual(y, blocks, ["seed", "combination"])
    mean_square = pooled / (len(y) - rank)
    terms = [name for name in blocks if name not in ("seed", "combination")]
    assert {term.title for term in known.terms} == set(terms) and known.balanced == (not missing)
    raw = {}
    for term in known.terms:
        inside = set(term.title.split(" × "))
        others = ["seed", *(name for name in terms if not inside <= set(name.split(" × ")))]
        (without, small), (with_it, large) = residual(y, blocks, others), residual(y, blocks, [*others, term.title])
        assert term.df == large - small
        assert term.share == pytest.approx((without - with_it) / total, abs=1e-10)
        assert term.f == pytest.approx((without - with_it) / (large - small) / mean_square, abs=1e-6)
        pooled_p = stats.f.sf(term.f, term.df, len(y) - rank)
        raw[term.title] = max(pooled_p, by_own_variances(y, blocks, others, term.title, known.fit.variances))
    assert [term.p for term in known.terms] == pytest.approx(
        [
            min(1, max(sum(q >= p for q in raw.values()) * p for p in raw.values() if p <= raw[t.title]))
            for t in known.terms
        ]
    )
    assert known.residual == pytest.approx(pooled / total)
    if not missing:
        parts = sum(term.share for term in known.terms) + known.seed + known.rest + known.residual
        assert parts == pytest.approx(1)
        assert known.seed == pytest.approx(((residual(y, blocks, ["combination"])[0]) - pooled) / total)


def test_one_factor_in_one_seed_block_is_scipys_f_test(tmp_path):
    """Combinations that share no seeds: F is that of scipy.stats.f_oneway, and p is not below its p."""
    rng = np.random.default_rng(1)
    groups = {"sgd": rng.normal(0.6, 0.05, 4), "adam": rng.normal(0.7, 0.05, 4), "lion": rng.normal(0.65, 0.05, 4)}
    for number, (optimizer, values) in enumerate(groups.items()):
        for seed, value in enumerate(values):
            swept = {"optimizer": optimizer, "seed": 10 * number + seed}
            write_run(tmp_path / f"{optimizer}{seed}", swept=swept, val_accuracy=float(value))
    found, cells, _ = read(tmp_path)
    (term,) = effects(found, cells).terms
    expected = stats.f_oneway(*groups.values())
    assert term.f == pytest.approx(expected.statistic) and expected.pvalue <= term.p < 0.05


def test_two_seeds_give_no_p(tmp_path):
    """Shares of the variance stand on the page; two seeds settle nothing."""
    found, cells, _ = read(product(tmp_path, seeds=2))
    known = effects(found, cells)
    assert known.terms[0].share > 0.1 and known.terms[0].f > 1 and {term.p for term in known.terms} == {None}


def test_a_combination_whose_bad_seeds_are_gone_is_in_no_effect(tmp_path):
    """The value at which seeds diverge is drawn by those combinations alone that are whole, and the page says so."""
    product(tmp_path, missing=(0,))
    for seed, status in enumerate(("done", "diverged", "diverged")):
        swept = {"optimizer": "sgd", "optimizer.lr": 1e-3, "transfer.freeze_depth": 0, "seed": seed}
        write_run(tmp_path / f"bad{seed}", status, swept=swept, val_accuracy=0.999)
    records = collect(tmp_path)
    keys = SweptKeys(records)
    drawn = design(summarize(records, keys), keys)
    assert "One combination with seeds that did not finish left out." in drawn.note
    assert max(drawn.effects.fit.means) < 0.99 and len(drawn.effects.fit.means) == 17


def test_marginal_means_are_plain_means_where_nothing_is_missing(tmp_path):
    """Balanced: the mean over all runs with that value; the interval is at least t s / √n with the pooled residual."""
    found, cells, _ = read(product(tmp_path))
    y, blocks = columns(found, cells)
    pooled, rank = residual(y, blocks, ["seed", "combination"])
    df = len(y) - rank
    for factor, levels in zip(found, margins(found, cells)):
        for level, margin in enumerate(levels):
            mine = blocks[factor.title][:, level] == 1
            assert margin.mean == pytest.approx(y[mine].mean())
            half = stats.t.isf(0.025, df) * (pooled / df / mine.sum()) ** 0.5
            assert margin.high - margin.mean == pytest.approx(margin.mean - margin.low)
            assert half * (1 - 1e-9) <= margin.high - margin.mean < 2 * half


def test_marginal_means_are_least_squares_means_where_runs_are_missing(tmp_path):
    """Unbalanced: the additive model's prediction, averaged over the other factors' values and the seeds."""
    found, cells, _ = read(product(tmp_path, missing=(0, 7, 17)))
    y, blocks = columns(found, cells)
    names = ["seed", *(factor.title for factor in found)]
    design = np.hstack([np.ones((len(y), 1)), *(blocks[name] for name in names)])
    solution = np.linalg.pinv(design) @ y
    for factor, levels in zip(found, margins(found, cells)):
        for level, margin in enumerate(levels):
            parts = [
                np.eye(blocks[name].shape[1])[level]
                if name == factor.title
                else np.full(blocks[name].shape[1], 1 / blocks[name].shape[1])
                for name in names
            ]
            assert margin.mean == pytest.approx(np.concatenate([[1], *parts]) @ solution)


def test_holm_steps_down():
    """The textbook's numbers."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("values", "levels", "places", "log"),
    [
        (["0", "1", "2", "4", "all"], ("0", "1", "2", "4", "all"), (0, 1, 2, 4, 5), False),
        (["0.1", "0.001", "0.01"], ("0.001", "0.01", "0.1"), (-3, -2, -1), True),
        (["0", "1e-4", "0.01", "1e-3"], ("0", "1e-4", "1e-3", "0.01"), (-5, -4, -3, -2), True),
        (["10", "null", "20", "40"], ("10", "20", "40", "null"), (10, 20, 40, 55), False),
        (["10%", "0", "5%"], ("0", "5%", "10%"), (0, 5, 10), False),
        (["sgd", "adam"], ("adam", "sgd"), None, False),
        (["0", "all"], ("0", "all"), None, False),
        (["", "3", "5"], ("3", "5", "(not set)"), (3, 5, 7), False),
    ],
)
def test_levels_stand_in_order(tmp_path, values, levels, places, log):
    """Numbers by size, then words; an axis where there are numbers, logarithmic over decades, zero a step before."""
    for i, value in enumerate(values):
        write_run(tmp_path / f"r{i}", swept={"k": value, "seed": 0}, val_accuracy=0.5)
    ((factor,), _, _) = read(tmp_path)
    assert (factor.levels, factor.log) == (levels, log)
    assert factor.places == (None if places is None else pytest.approx(places))


def test_keys_that_change_together_are_one_factor(tmp_path):
    """`epochs` that follow `data.per_class` step by step cannot be told from it: one factor, which says so."""
    for i, (per_class, epochs) in enumerate(((5, 200), (20, 100), (500, 15))):
        for seed in (0, 1):
            swept = {"data.per_class": per_class, "epochs": epochs, "seed": seed}
            write_run(tmp_path / f"r{i}{seed}", swept=swept, val_accuracy=0.5 + i / 10 + seed / 50 + i * seed / 90)
    ((factor,), _, _) = read(tmp_path)
    assert factor.keys == ("data.per_class", "epochs")
    assert "data.per_class (with epochs)" in Page(write_report(tmp_path).read_text()).words


def test_a_depth_sweep_draws_accuracy_over_depth_with_error_bars(tmp_path):
    """`transfer.freeze_depth=0,1,2,4,all`: a line over the depths in order, a bar at each; none with one seed."""
    means = {"0": 0.6, "1": 0.7, "2": 0.72, "4": 0.65, "all": 0.5}
    rng = np.random.default_rng(2)
    for name, seeds in (("three", 3), ("one", 1)):
        for (depth, mean), seed in itertools.product(means.items(), range(seeds)):
            swept = {"transfer.freeze_depth": depth, "seed": seed}
            write_run(tmp_path / name / f"{depth}{seed}", swept=swept, val_accuracy=mean + rng.normal(0, 0.01))
    pictures = {}
    for name in ("three", "one"):
        records = collect(tmp_path / name)
        keys = SweptKeys(records)
        ((title, svg),) = design(summarize(records, keys), keys).panels
        assert title == "transfer.freeze_depth"
        names = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert [text for text in names if text in means] == list(means)
        pictures[name] = svg.count("LineCollection")
    assert pictures == {"three": 1, "one": 0}


def test_heat_maps_show_the_means_of_pairs(tmp_path):
    """One table a pair, the largest interaction first; cells are means over the rest, and what never ran is a dash."""
    folder = product(tmp_path, missing=(0, 1, 2))  # sgd never ran at the smallest rate
    found, cells, rows = read(folder)
    records = collect(folder)
    shown = design(rows, SweptKeys(records))
    assert len(shown.heats) == 3
    assert [heat.share for heat in shown.heats] == sorted((heat.share for heat in shown.heats), reverse=True)
    heat = shown.heats[0]
    assert (heat.down.title, heat.across.title) == ("optimizer", "optimizer.lr")
    sgd, adam = heat.down.levels.index("sgd"), heat.down.levels.index("adam")
    assert heat.cells[sgd][0] is None
    mine = [
        list(c.values())
        for c, row in zip(cells, rows)
        if row.values["optimizer"] == "adam" and row.values["optimizer.lr"] == "0.1"
    ]
    accuracy, tested, hue = heat.cells[adam][2]
    assert accuracy == pytest.approx(np.mean(mine)) and tested == pytest.approx(np.mean(mine) - 0.1) and hue == 50
    text = write_report(folder).read_text()
    assert f"{accuracy:.3f}<small>{tested:.3f}</small>" in text and '<td class="none">–</td>' in text


def test_many_columns_leave_interactions_out(tmp_path):
    """Two factors of 18 values each: main effects alone, and the page says so."""
    for a, b in itertools.product(range(18), range(18)):
        write_run(
            tmp_path / f"{a}-{b}", swept={"a": f"x{a}", "b": f"y{b}", "seed": 0}, val_accuracy=0.5 + a / 100 + b / 300
        )
    found, cells, _ = read(tmp_path)
    known = effects(found, cells)
    assert not known.interactions and [term.title for term in known.terms] == ["a", "b"]
    assert "Interactions have too many cells" in Page(write_report(tmp_path).read_text()).words


def test_a_search_is_drawn_run_by_run(tmp_path):
    """Trials whose rates all differ are no product: dots, parallel coordinates, no effect, no verdict."""
    rng = np.random.default_rng(3)
    for i in range(30):
        swept = {"optimizer": ("sgd", "adam")[i % 2], "optimizer.lr": float(10 ** rng.uniform(-4, -1))}
        status = "pruned" if i % 5 == 4 else "done"
        write_run(tmp_path / f"t{i}", status, swept=swept, val_accuracy=float(rng.uniform(0.5, 0.9)))
    page = Page(write_report(tmp_path).read_text())
    assert "there is no product" in page.words and "Share of the variance" not in page.words
    assert "One seed settles nothing" in page.words and "Parallel coordinates" in page.words
    assert "Left out of all means: 6 pruned." in page.words


def test_two_combinations_that_are_alike_break_nothing(tmp_path):
    """All accuracies equal: no variance to share out, no division by zero."""
    for optimizer, seed in itertools.product(("sgd", "adam"), range(3)):
        write_run(tmp_path / f"{optimizer}{seed}", swept={"optimizer": optimizer, "seed": seed}, val_accuracy=0.5)
    page = Page(write_report(tmp_path).read_text())
    assert "residual is zero" in page.words and "leave a residual of zero" in page.words
    assert "nan" not in page.words.split("How to repeat")[0].lower().replace("finance", "")


def test_values_with_markup_and_dollars_are_drawn_as_they_are(tmp_path):
    """A value is text in the pictures too: escaped, and no mathematics."""
    for (i, value), seed in itertools.product(enumerate(("<b>$x^2$", "$\\frac{")), range(2)):
        write_run(tmp_path / f"{i}{seed}", swept={'<i>"k': value, "seed": seed}, val_accuracy=0.5 + seed / 9 + i / 99)
    text = write_report(tmp_path).read_text()
    Page(text)
    assert "<b>$" not in text and '<i>"' not in text and "&lt;b&gt;$x^2$</text>" in text


def test_time_and_memory_are_shown_where_they_are_known(tmp_path):
    """Peak memory has a column and a picture if the results tell it; else the page says that they do not."""
    for name, facts in (("with", {"peak_memory_mb": 1234.5}), ("without", {})):
        for optimizer, seed in itertools.product(("sgd", "adam"), range(2)):
            swept = {"optimizer": optimizer, "seed": seed}
            run = tmp_path / name / f"{optimizer}{seed}"
            write_run(run, swept=swept, val_accuracy=0.5 + seed / 10, **({"seconds": 2.5} | facts))
    known, unknown = (Page(write_report(tmp_path / name).read_text()).words for name in ("with", "without"))
    assert "1,234.5" in known and "Peak memory, MB" in known and "contain no peak memory" not in known
    assert "contain no peak memory" in unknown and "Peak memory, MB" not in unknown
    assert "10.0 s in all runs together" in known


def test_ensembles_have_their_gain_and_their_pictures(tmp_path):
    """Members' mean, together, gain with deviation; a few pictures embedded, the others counted."""
    assert ensembles.PICTURE == ensemble_facts.PICTURE
    for seed in range(6):
        facts = {"members": [0.6, 0.7], "mean": 0.65, "gain": 0.02 + seed / 100}
        run = write_run(tmp_path / f"s{seed}", swept={"seed": seed}, val_accuracy=0.7 + seed / 100, ensemble=facts)
        (run / "ensemble.png").write_bytes(b"\x89PNG picture")
    text = write_report(tmp_path).read_text()
    words = Page(text).words
    assert text.count("data:image/png;base64,") == 4 and "2 more pictures" in words
    assert f"{0.045:+.4f} ± {np.std([0, 1, 2, 3, 4, 5], ddof=1) / 100:.4f}" in words and "0.6950" in words


def test_a_design_that_does_not_hang_together_is_drawn_run_by_run(tmp_path):
    """Two halves that share no value of any key cannot be compared: dots, and no effects."""
    for number, (rate, size) in enumerate(((0.1, 32), (0.1, 64), (0.2, 128), (0.3, 128))):
        for seed in (0, 1):
            words = {"optimizer.lr": rate, "batch_size": size, "seed": seed}
            write_run(tmp_path / f"{number}{seed}", swept=words, val_accuracy=0.5 + number / 10 + seed / 100)
    page = write_report(tmp_path).read_text()
    assert "each dot is a run, and no effect is computed" in page
