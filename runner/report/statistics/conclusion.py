"""Verdict on the leaderboard, in words. Selection is on validation accuracy.

A combination with unfinished runs takes no part, because its remaining seeds may be the luckiest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.core.text import number
from runner.report.results.format import count, further, probability
from runner.report.results.keys import SweptKeys
from runner.report.results.tables import FEWEST, Row, Statistic, by_seed
from runner.report.statistics.block_design import Fit, fit
from runner.report.statistics.distributions import t_quantile
from runner.report.statistics.notes import doubts, images, left_out, limits, rules

if TYPE_CHECKING:
    from runner.report.statistics.multiple_comparisons import Comparison, Pair

_METRIC = "val_accuracy"


@dataclass(frozen=True)
class Verdict:
    """Verdict: which combination leads, and whether the others are distinguishable from it.

    `rows` are in the order of the (adjusted) means; `adjusted` and `judged` have an entry for each, or None.
    `settled`: whether the leader is distinguishable from all others; None without a verdict.
    """

    rows: list[Row]
    headline: str
    lines: list[str]
    notes: list[str] = field(default_factory=list)  # the method and its limits
    settled: bool | None = None
    adjusted: list[float | None] | None = None
    judged: list[str | None] | None = None
    pairs: list[tuple[str, str, "Pair"]] = field(default_factory=list)
    method: str = ""


def verdict(rows: Sequence[Row], keys: SweptKeys) -> Verdict:
    """Return the verdict on the combinations of a folder."""
    cells = [by_seed(row, keys) for row in rows]
    rows, cells, adjusted = _ordered(rows, cells)
    judgable = [i for i, cell in enumerate(cells) if rows[i].is_complete and len(cell) >= FEWEST]
    refusal = _refusal(rows, cells, judgable)
    pooled = fit([cells[i] for i in judgable]) if refusal is None else None
    if pooled is not None and not pooled.deviation:
        refusal = _no_residual(pooled)
    if refusal is not None:
        headline, lines = refusal
        return Verdict(rows, headline, lines, [*images(rows), *rules(rows), *left_out(rows)], adjusted=adjusted)
    # Imported here, because scipy.stats takes half a second to import and a single seed does not need it.
    from runner.report.statistics.multiple_comparisons import METHOD, compare

    comparison = compare(pooled)
    judged = [_unjudged(row, cell) for row, cell in zip(rows, cells)]
    for place, i in enumerate(judgable):
        judged[i] = "–" if place == comparison.leader else _judged(comparison.against(place))
    pairs = [(rows[judgable[pair.first]].name, rows[judgable[pair.second]].name, pair) for pair in comparison.pairs]
    has_all = len(pairs) == math.comb(len(judgable), 2)
    return Verdict(
        rows=rows,
        headline=_headline(comparison, pooled, len(judgable) - 1),
        lines=_lines([rows[i] for i in judgable], comparison),
        notes=[
            *limits([rows[i] for i in judgable], comparison, pooled),
            *doubts([cells[i] for i in judgable], pooled),
            *rules([rows[i] for i in judgable]),
            *left_out(rows),
        ],
        settled=not comparison.rivals,
        adjusted=adjusted,
        judged=judged,
        pairs=pairs if has_all and len(judgable) > 2 else [],
        method=METHOD,
    )


def interval(statistic: Statistic | None) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a mean accuracy over seeds, mean ± t(n - 1) s / √n, cut to [0, 1].

    None if the seeds have no spread, because a few equal counts of correct images do not make the mean exact.
    """
    if statistic is None or not statistic.deviation:
        return None
    half = float(t_quantile(statistic.n - 1, 0.975)) * statistic.deviation / math.sqrt(statistic.n)
    return max(0.0, statistic.mean - half), min(1.0, statistic.mean + half)


def _ordered(
    rows: Sequence[Row], cells: Sequence[Mapping[str, float]]
) -> tuple[list[Row], list[Mapping[str, float]], list[float | None] | None]:
    """Order combinations by the least-squares mean if seeds are missing, because one without a hard seed looks better.

    Returns rows, cells and these means; None in place of the means if the plain means decide.
    """
    known = [i for i, cell in enumerate(cells) if cell and rows[i].is_complete]
    pooled = fit([cells[i] for i in known]) if len(known) > 1 else None
    if pooled is None or pooled.layout.balanced or not pooled.layout.blocked:
        return list(rows), list(cells), None
    means: list[float | None] = [None] * len(rows)
    for i, mean in zip(known, pooled.means):
        means[i] = float(mean)
    ranks = [(not row.is_complete, math.inf if mean is None else -mean) for row, mean in zip(rows, means)]
    order = sorted(range(len(rows)), key=ranks.__getitem__)
    return [rows[i] for i in order], [cells[i] for i in order], [means[i] for i in order]


def _refusal(
    rows: Sequence[Row], cells: Sequence[Mapping[str, float]], judgable: Sequence[int]
) -> tuple[str, list[str]] | None:
    """Return headline and lines if there is no verdict, else None."""
    known = [i for i, cell in enumerate(cells) if cell]
    complete = [i for i in known if rows[i].is_complete]
    if not known:
        done = any(row.done for row in rows)
        return f"Nothing to order: no run has {'a validation accuracy' if done else 'finished yet'}.", []
    if len(rows) > 1 and not complete:
        return "No verdict: each combination has seeds that did not finish.", [
            "What is left of a combination may be its luckiest seeds, so none of them leads."
        ]
    if len(known) == 1:
        hint = ["It has one seed. One seed settles nothing: another can give another number."]
        return "Nothing to compare: one combination has finished.", hint if len(cells[known[0]]) == 1 else []
    if len(judgable) > 1:
        return None
    most = max(len(cells[i]) for i in complete)
    if most < FEWEST:
        each = "each combination" if complete == known else "each combination that is complete"
        return f"No verdict: {each} has {'one seed' if most == 1 else 'two seeds at most'}.", [
            f"{'One seed settles' if most == 1 else 'Two seeds settle'} nothing: another can reverse this order. "
            "Sweep the seed as well (seed=0,1,2,3,4)."
        ]
    return f"No verdict: only one combination has {FEWEST} seeds or more and all of them done.", [
        "One or two seeds settle nothing. Run the other seeds as well."
    ]


def _unjudged(row: Row, cell: Mapping[str, float]) -> str | None:
    """Return the reason why a combination is not tested; None if it has no result."""
    if not cell:
        return None
    if not row.is_complete:
        return f"cannot lead: {row.gaps}"
    return f"{'one seed' if len(cell) == 1 else 'two seeds'}: no verdict"


def _no_residual(pooled: Fit) -> tuple[str, list[str]]:
    if pooled.deviation is None:
        return "No verdict: there are no degrees of freedom to judge a difference by.", [
            "Each seed that is done is needed to link the combinations. Finish the missing runs, or add a seed."
        ]
    return "No verdict: the residual is zero.", [
        "The seeds change nothing, or change all combinations alike to the last digit, which gives no measure of "
        "chance. Does the seed reach what is random in these runs?"
    ]


def _judged(pair: "Pair") -> str:
    return f"yes, {probability(pair.p)}" if pair.is_significant else f"no, {probability(pair.p)}; {further(pair.more)}"


def _headline(comparison: "Comparison", pooled: Fit, others: int) -> str:
    rivals = len(comparison.rivals)
    is_equal = pooled.counts.min() == pooled.counts.max()
    seeds = f"with {'these' if is_equal else 'up to'} {count(int(pooled.counts.max()), 'seed')}"
    if not rivals:
        compared = "the other one" if others == 1 else f"each of the {others} others"
        return f"The first combination is distinguishable from {compared} {seeds}."
    compared = "the other one" if others == 1 else f"{rivals} of the {others} others"
    if 1 < rivals == others:
        compared = f"any of the {others} others"
    return f"Not settled: the first combination is not distinguishable from {compared} {seeds}."


def _lines(rows: Sequence[Row], comparison: "Comparison") -> list[str]:
    leader, score = rows[comparison.leader], rows[comparison.leader].metrics[_METRIC]
    ends = interval(score)
    spread = "the same in each" if ends is None else "95 % interval " + " to ".join(number(x, _METRIC) for x in ends)
    lines = [
        f"First: {leader.name}. Mean validation accuracy {number(score.mean, _METRIC)} over {count(score.n, 'seed')}, "
        f"{spread}."
    ]
    pairs = [pair for pair in comparison.pairs if pair.first == comparison.leader]
    rival = min(pairs, key=lambda pair: pair.difference)
    lines.append(
        f"Nearest: {rows[rival.second].name}. Difference {rival.difference:.4f}, 95 % interval {rival.low:+.4f} to "
        f"{rival.high:+.4f}, {probability(rival.p)}."
    )
    if math.isinf(rival.more):
        lines.append(f"Their observed difference is so small that {further(rival.more)} would be needed.")
    elif rival.more:
        lines.append(
            f"For these two {further(rival.more)} would show it (80 % power, if the observed difference is true)."
        )
    return lines
