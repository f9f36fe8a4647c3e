"""The leaderboard's statistics, and what they allow to say in plain words. Selection is on validation accuracy."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from runner.core.text import number
from runner.report.blocked import Fit, fit
from runner.report.distributions import t_quantile
from runner.report.tables import Keys, Row, Statistic, by_seed
from runner.report.wording import count, further, probability

if TYPE_CHECKING:
    from runner.report.best import Comparison, Pair

SETTLED = 5  # seeds a combination, under which even a distinguishable leader is a first answer
_METRIC = "val_accuracy"
_LEFT_OUT = ("failed", "out_of_memory", "diverged", "pruned", "interrupted", "running", "planned")


@dataclass(frozen=True)
class Verdict:
    """`rows` in the order of the (adjusted) means; `adjusted` and `judged` say something of each, None of some.

    `settled` is True where the leader is told apart from all others, False where not, None where nothing can be said.
    """

    rows: list[Row]
    headline: str
    lines: list[str]
    notes: list[str] = field(default_factory=list)  # how it was found, and its limits
    settled: bool | None = None
    adjusted: list[float | None] | None = None
    judged: list[str | None] | None = None
    pairs: list[tuple[str, str, "Pair"]] = field(default_factory=list)
    method: str = ""


def verdict(rows: Sequence[Row], keys: Keys) -> Verdict:
    """What the runs of a folder settle, and what not."""
    cells = [by_seed(row, keys) for row in rows]
    rows, cells, adjusted = _ordered(rows, cells)
    known = [i for i, cell in enumerate(cells) if cell]
    several = [i for i in known if len(cells[i]) > 1]
    refusal = _refusal(rows, cells, known, several)
    pooled = fit([cells[i] for i in several]) if refusal is None else None
    if pooled is not None and not pooled.deviation:
        refusal = _no_residual(pooled)
    if refusal is not None:
        return Verdict(rows, *refusal, _left_out(rows), adjusted=adjusted)
    from runner.report.best import compare  # scipy.stats takes half a second: one seed has no need of it

    comparison = compare(pooled)
    judged: list[str | None] = [None if not cell else "one seed: no verdict" for cell in cells]
    for place, i in enumerate(several):
        judged[i] = "–" if place == comparison.leader else _judged(comparison.against(place))
    named = [(rows[several[pair.one]].name, rows[several[pair.other]].name, pair) for pair in comparison.pairs]
    every = len(named) == math.comb(len(several), 2)
    return Verdict(
        rows=rows,
        headline=_headline(comparison, pooled, len(several) - 1),
        lines=_lines([rows[i] for i in several], comparison),
        notes=[
            *_limits([rows[i] for i in several], comparison, pooled),
            *_doubts([cells[i] for i in several], pooled),
            *_left_out(rows),
        ],
        settled=not comparison.rivals,
        adjusted=adjusted,
        judged=judged,
        pairs=named if every and len(several) > 2 else [],
        method=comparison.method,
    )


def half_interval(statistic: Statistic | None) -> float | None:
    """Half the 95 % confidence interval of a mean over seeds: t(n - 1) s / √n."""
    if statistic is None or statistic.deviation is None:
        return None
    return t_quantile(statistic.n - 1, 0.975) * statistic.deviation / math.sqrt(statistic.n)


def _ordered(
    rows: Sequence[Row], cells: Sequence[Mapping[str, float]]
) -> tuple[list[Row], list[Mapping[str, float]], list[float | None] | None]:
    """Where runs are missing, by the least-squares mean: a combination that missed a hard seed would look better."""
    known = [i for i, cell in enumerate(cells) if cell]
    pooled = fit([cells[i] for i in known]) if len(known) > 1 else None
    if pooled is None or pooled.balanced or not pooled.blocked:
        return list(rows), list(cells), None
    means: list[float | None] = [None] * len(rows)
    for i, mean in zip(known, pooled.means):
        means[i] = float(mean)
    order = sorted(range(len(rows)), key=lambda i: math.inf if means[i] is None else -means[i])
    return [rows[i] for i in order], [cells[i] for i in order], [means[i] for i in order]


def _refusal(
    rows: Sequence[Row], cells: Sequence[Mapping[str, float]], known: Sequence[int], several: Sequence[int]
) -> tuple[str, list[str]] | None:
    """Why there is no verdict, if there is none: headline and lines."""
    if not known:
        done = any(row.done for row in rows)
        return f"Nothing to order: no run has {'a validation accuracy' if done else 'finished yet'}.", []
    if len(known) == 1:
        one = ["It has one seed. One seed settles nothing: another can give another number."]
        return "Nothing to compare: one combination has finished.", one if len(cells[known[0]]) == 1 else []
    if not several:
        return "No verdict: each combination has one seed.", [
            "One seed settles nothing: another can turn this order round. Sweep the seed as well (seed=0,1,2,3,4)."
        ]
    if len(several) == 1:
        return "No verdict: only one combination has more than one seed so far.", [
            "One seed settles nothing. Run the other seeds as well."
        ]
    return None


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
    return f"yes, {probability(pair.p)}" if pair.told else f"no, {probability(pair.p)}; {further(pair.more)}"


def _headline(comparison: "Comparison", pooled: Fit, others: int) -> str:
    rivals = len(comparison.rivals)
    seeds = f"with {'these' if pooled.balanced else 'up to'} {count(pooled.seeds, 'seed')}"
    if not rivals:
        whom = "the other one" if others == 1 else f"each of the {others} others"
        return f"The first combination is distinguishable from {whom} {seeds}."
    whom = "the other one" if others == 1 else f"{rivals} of the {others} others"
    if 1 < rivals == others:
        whom = f"any of the {others} others"
    return f"Not settled: the first combination is not distinguishable from {whom} {seeds}."


def _lines(rows: Sequence[Row], comparison: "Comparison") -> list[str]:
    leader, own = rows[comparison.leader], rows[comparison.leader].metrics[_METRIC]
    half = half_interval(own)
    lines = [
        f"First: {leader.name}. Mean validation accuracy {number(own.mean, _METRIC)} over {count(own.n, 'seed')}, "
        f"95 % interval {number(own.mean - half, _METRIC)} to {number(own.mean + half, _METRIC)}."
    ]
    ahead = [pair for pair in comparison.pairs if pair.one == comparison.leader]
    near = min(ahead, key=lambda pair: pair.difference)
    bounds = (
        f"95 % interval {near.low:+.4f} to {near.high:+.4f}"
        if math.isfinite(near.high)
        else f"with 95 % confidence at least {near.low:+.4f}"
    )
    lines.append(
        f"Nearest: {rows[near.other].name}. Difference {near.difference:.4f}, {bounds}, {probability(near.p)}."
    )
    if math.isinf(near.more):
        lines.append(f"The difference seen between these two is so small that {further(near.more)} would be needed.")
    elif near.more:
        lines.append(
            f"For these two {further(near.more)} would tell (with 80 % power, if the difference seen is the true one)."
        )
    return lines


def _limits(rows: Sequence[Row], comparison: "Comparison", pooled: Fit) -> list[str]:
    leader, notes = rows[comparison.leader], []
    if not comparison.rivals:
        first = "Fewer than 5 seeds: take it as a first answer. " if pooled.seeds < SETTLED else ""
        notes.append(
            f"{first}This is about these combinations; a statement about methods wants learning rates chosen for each."
        )
    if images := _images(leader):
        mean = leader.metrics[_METRIC].mean
        chance = math.sqrt(mean * max(0.0, 1 - mean) / images)
        notes.append(
            f"Every seed is measured on the same {count(images, 'validation image')}: what other images would change "
            f"(about ± {number(chance, _METRIC)} in an accuracy) is in none of these numbers."
        )
    seeds = "seeds as blocks" if pooled.blocked else "without blocks, for the combinations ran different seeds"
    notes.append(
        f"How: {comparison.method} at 5 %, corrected for picking the best of {len(rows)} afterwards; {seeds}; pooled "
        f"residual {pooled.deviation:.2g} with {count(pooled.df, 'degree')} of freedom. Chosen on validation "
        "accuracy; the test split took no part."
    )
    return notes


def _images(row: Row) -> int | None:
    """Of the validation split, where the result tells."""
    data = row.done[0].facts.get("data")
    images = data.get("val") if isinstance(data, dict) else None
    return images if isinstance(images, int) and images > 0 else None


def _doubts(cells: Sequence[Mapping[str, float]], pooled: Fit) -> list[str]:
    doubts = []
    if not pooled.balanced and pooled.blocked:
        doubts.append(
            "Runs are missing: the order and the comparison use means adjusted for the seeds that each combination "
            "has (least-squares means)."
        )
    constant = sum(len(set(cell.values())) == 1 for cell in cells)
    if constant:
        doubts.append(
            f"{constant} of {count(len(cells), 'combination')} gave the same accuracy in every seed: they make the "
            "pooled residual smaller than what the others show."
        )
    groups = [list(cell.values()) for cell in cells if len(cell) > 2]
    if len(groups) > 1 and any(np.ptp(group) > 0 for group in groups):
        from scipy import stats

        p = float(stats.levene(*groups, center="median").pvalue)
        if p < 0.01:
            doubts.append(
                f"The combinations spread differently over the seeds (Levene, {probability(p)}): the pooled residual "
                "is too strict for the steady ones and too kind to the others."
            )
    return doubts


def _left_out(rows: Sequence[Row]) -> list[str]:
    statuses = sum((row.statuses for row in rows), Counter())
    told = [f"{statuses[status]} {status.replace('_', ' ')}" for status in _LEFT_OUT if statuses[status]]
    return [f"Left out of all means: {', '.join(told)}."] if told else []
