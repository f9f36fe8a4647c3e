"""Section of the report on the swept factors: their main effects, interactions and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.report.pictures.effects import factor_panels, scatter_panels
from runner.report.pictures.heat_maps import Heat, heat_maps
from runner.report.pictures.overview import parallel_coordinates
from runner.report.results.keys import SweptKeys
from runner.report.results.tables import Row, by_seed
from runner.report.statistics.effects import Effects, effects, margins
from runner.report.statistics.factors import Factor, factors

MOST_FACTORS = 12


@dataclass(frozen=True)
class Design:
    """Content of the section: a panel (title, SVG) for each factor; `effects` is None without a factorial design."""

    note: str
    panels: list[tuple[str, str]]
    effects: Effects | None = None
    heats: list[Heat] = field(default_factory=list)
    parallel: str | None = None


def design(rows: Sequence[Row], keys: SweptKeys) -> Design | None:
    """Return the section for `rows`, in the order of the leaderboard; None for fewer than two complete combinations.

    Combinations with unfinished runs are left out, because a value at which bad seeds diverge would look better.
    """
    finished = [row for row in rows if by_seed(row, keys)]
    rows = [row for row in finished if row.is_complete]
    absent = len(finished) - len(rows)
    swept = factors(rows, [name for name in keys.names if name != "seed"]) if len(rows) > 1 else []
    if not swept:
        return None
    cells = [by_seed(row, keys) for row in rows]
    if any(factor.is_scattered(sum(map(len, cells))) for factor in swept):
        return _scattered(rows, swept, cells, absent, "Some values are as many as the runs (a search, as a rule)")
    estimated = effects(swept, cells)
    shares = {term.factors[0].keys: term.share for term in estimated.terms if len(term.factors) == 1}
    drawn = sorted(swept, key=lambda factor: -shares.get(factor.keys, 0.0))[:MOST_FACTORS]
    tests = [by_seed(row, keys, "test_accuracy") for row in rows]
    test_means = margins(drawn, tests) if all(tests) else None
    means = margins(drawn, cells)
    if all(margin.mean is None for levels in means for margin in levels):
        return _scattered(
            rows, swept, cells, absent, "No value of a key was tried beside the same values of the others"
        )
    return Design(
        note=_note(estimated, test_means is not None) + _absent(absent),
        panels=factor_panels(drawn, means, test_means),
        effects=estimated,
        heats=heat_maps(swept, estimated, tests),
        parallel=parallel_coordinates(rows, drawn, estimated.fit.means) if len(swept) > 1 else None,
    )


def _absent(count: int) -> str:
    """Return a sentence about combinations that are not drawn, or nothing."""
    combinations = f"{count} combinations" if count > 1 else "One combination"
    return f" {combinations} with seeds that did not finish left out." if count else ""


def _scattered(
    rows: Sequence[Row], swept: list[Factor], cells: Sequence[Mapping[str, float]], absent: int, reason: str
) -> Design:
    """Return a section with a dot for each run, for runs without a factorial design to average over."""
    drawn, means = swept[:MOST_FACTORS], [sum(cell.values()) / len(cell) for cell in cells]
    note = f"{reason}, so there is no product of values to average over: each dot is a run, and no effect is computed."
    note += _absent(absent)
    parallel = parallel_coordinates(rows, drawn, means) if len(swept) > 1 else None
    return Design(note, scatter_panels(drawn, cells), parallel=parallel)


def _note(estimated: Effects, has_test: bool) -> str:
    sentences = ["Each point is a value's mean validation accuracy over all other values and seeds."]
    if not estimated.balanced:
        sentences.append(
            "Combinations or runs are missing, so these are least-squares means: what the mean would be if the "
            "effects added up."
        )
    if estimated.fit.deviation is None:
        sentences.append("No intervals: that takes a second seed.")
    elif not estimated.fit.deviation:
        sentences.append("No intervals: the seeds leave a residual of zero.")
    else:
        sentences.append(
            "Bars are 95 % intervals, one value at a time, by the pooled residual or the combinations' own, the wider"
            + ("; what a seed does to all combinations alike is taken out." if estimated.fit.layout.blocked else ".")
        )
    return " ".join(sentences + (["Grey behind it: test accuracy, to look at, not to choose by."] if has_test else []))
