"""The part of the page about the factors: what there is to say and to draw of them."""

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
    """`panels`: (title, svg) of each factor; `effects` is None where the runs are no product of values."""

    note: str
    panels: list[tuple[str, str]]
    effects: Effects | None = None
    heats: list[Heat] = field(default_factory=list)
    parallel: str | None = None


def design(rows: Sequence[Row], keys: SweptKeys) -> Design | None:
    """`rows` in the order of the leaderboard; None where fewer than two combinations have finished.

    Combinations with runs that did not finish take no part: a value at which bad seeds diverge would look better.
    """
    finished = [row for row in rows if by_seed(row, keys)]
    rows = [row for row in finished if row.is_complete]
    absent = len(finished) - len(rows)
    found = factors(rows, [name for name in keys.names if name != "seed"]) if len(rows) > 1 else []
    if not found:
        return None
    cells = [by_seed(row, keys) for row in rows]
    if any(factor.scattered(sum(map(len, cells))) for factor in found):
        return _scattered(rows, found, cells, absent, "Some values are as many as the runs (a search, as a rule)")
    known = effects(found, cells)
    shares = {term.factors[0].keys: term.share for term in known.terms if len(term.factors) == 1}
    drawn = sorted(found, key=lambda factor: -shares.get(factor.keys, 0.0))[:MOST_FACTORS]
    tests = [by_seed(row, keys, "test_accuracy") for row in rows]
    tested = margins(drawn, tests) if all(tests) else None
    means = margins(drawn, cells)
    if all(margin.mean is None for own in means for margin in own):
        return _scattered(
            rows, found, cells, absent, "No value of a key was tried beside the same values of the others"
        )
    return Design(
        note=_note(known, tested is not None) + _absent(absent),
        panels=factor_panels(drawn, means, tested),
        effects=known,
        heats=heat_maps(found, known, tests),
        parallel=parallel_coordinates(rows, drawn, known.fit.means) if len(found) > 1 else None,
    )


def _absent(count: int) -> str:
    """Return a sentence about combinations that are not drawn, or nothing."""
    which = f"{count} combinations" if count > 1 else "One combination"
    return f" {which} with seeds that did not finish left out." if count else ""


def _scattered(
    rows: Sequence[Row], found: list[Factor], cells: Sequence[Mapping[str, float]], absent: int, why: str
) -> Design:
    """Run by run, where there is nothing to average over."""
    drawn, means = found[:MOST_FACTORS], [sum(cell.values()) / len(cell) for cell in cells]
    note = f"{why}, so there is no product of values to average over: each dot is a run, and no effect is computed."
    note += _absent(absent)
    parallel = parallel_coordinates(rows, drawn, means) if len(found) > 1 else None
    return Design(note, scatter_panels(drawn, cells), parallel=parallel)


def _note(known: Effects, tested: bool) -> str:
    said = ["Each point is a value's mean validation accuracy over all other values and seeds."]
    if not known.balanced:
        said.append(
            "Combinations or runs are missing, so these are least-squares means: what the mean would be if the "
            "effects added up."
        )
    if known.fit.deviation is None:
        said.append("No intervals: that takes a second seed.")
    elif not known.fit.deviation:
        said.append("No intervals: the seeds leave a residual of zero.")
    else:
        said.append(
            "Bars are 95 % intervals, one value at a time, by the pooled residual or the combinations' own, the wider"
            + ("; what a seed does to all combinations alike is taken out." if known.fit.layout.blocked else ".")
        )
    return " ".join(said + (["Grey behind it: test accuracy, to look at, not to choose by."] if tested else []))
