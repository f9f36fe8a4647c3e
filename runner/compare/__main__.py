"""`python -m runner.compare DIR1 DIR2 [...]`: compare sweeps, combination by combination."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from runner.compare.match import SweepResults, read_sweep, setting_differences, shared_names
from runner.compare.paired import Difference, overall, paired
from runner.core.console import console
from runner.core.errors import ConfigError
from runner.report.results.format import count, further, probability
from runner.report.results.tables import FEWEST

MOST_ROWS = 40  # in a table
MOST_NAMED = 5  # left-out combinations that are listed by name


def main(argv: list[str] | None = None) -> int:
    """Compare each further folder with the first; return 2 if one holds no runs or shares no combination."""
    parser = argparse.ArgumentParser(
        prog="python -m runner.compare",
        description="Compares each further sweep with the first: the combinations that stand in both, seed by seed.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="*", type=Path, help="folders of runs, at least two")
    folders = parser.parse_args(argv).folders
    try:
        if len(folders) < 2:
            raise ConfigError("name at least two folders: python -m runner.compare outputs/ONE outputs/OTHER")
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise ConfigError(f"{', '.join(map(str, folders))}: the same folder is named twice")
        sweeps = [read_sweep(folder) for folder in folders]
        compared = [(sweep, *_pairs(sweeps[0], sweep)) for sweep in sweeps[1:]]
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # `console` is the sweep display's, without importing torch; output to a file is not cut to a width.
    out = console()
    for sweep, names, pairs in compared:
        _show(out, sweeps[0], sweep, names, pairs)
    return 0


Pairs = dict[tuple[str, ...], dict[str, dict[str, float]]]  # values -> metric -> seed -> second minus first


def _pairs(first: SweepResults, second: SweepResults) -> tuple[list[str], Pairs]:
    names = shared_names([first, second])
    cells, other_cells = first.cells(names), second.cells(names)
    pairs: Pairs = {}
    for values in cells:
        if values in other_cells:
            pairs[values] = {
                metric: {seed: other_seeds[seed] - value for seed, value in seeds.items() if seed in other_seeds}
                for metric, seeds in cells[values].items()
                if (other_seeds := other_cells[values].get(metric))
            }
    if not pairs:
        left_out = [(sweep, reason) for sweep in (first, second) for reason in sweep.gaps(names).values()]
        if left_out:
            sweep, reason = left_out[0]
            raise ConfigError(f"no combination is complete in both folders: {reason} in {sweep.folder}")
        swept = " and ".join(f"{s.folder} varies {', '.join(s.keys.names) or 'nothing'}" for s in (first, second))
        raise ConfigError(f"no combination stands in both folders: {swept}")
    shared = {values: metrics for values, metrics in pairs.items() if metrics.get("val_accuracy")}
    if not shared:
        raise ConfigError(
            f"{first.folder}, {second.folder}: {count(len(pairs), 'combination')} in both, but with no seed in common"
        )
    return names, shared


def _show(out: Console, first: SweepResults, second: SweepResults, names: Sequence[str], pairs: Pairs) -> None:
    validation = [metrics["val_accuracy"] for metrics in pairs.values()]
    differences, deviation, df = paired(validation)
    out.print(f"{second.folder} minus {first.folder}, validation accuracy")
    table = Table()
    table.add_column("combination", overflow="fold")
    for title in ("seeds", "difference", "95 % interval", "test", "distinguishable?"):
        table.add_column(title, justify="left" if title.endswith("?") else "right")
    order = sorted(range(len(pairs)), key=lambda i: -abs(differences[i].mean))
    for i in order[:MOST_ROWS]:
        values, difference = list(pairs)[i], differences[i]
        tests = list(pairs[values].get("test_accuracy", {}).values())
        table.add_row(
            ", ".join(f"{name}={_short(value)}" for name, value in zip(names, values)) or "all seeds",
            str(difference.seeds),
            f"{difference.mean:+.4f}",
            "–" if difference.low is None else f"{difference.low:+.4f} to {difference.high:+.4f}",
            f"{sum(tests) / len(tests):+.4f}" if tests else "–",
            describe_verdict(difference),
        )
    out.print(table)
    if len(order) > MOST_ROWS:
        out.print(f"The {MOST_ROWS} largest differences of {count(len(order), 'combination')}.")
    for line in (*_summary(first, second, names, pairs, differences, deviation, df), ""):
        out.print(line)


def describe_verdict(difference: Difference) -> str:
    """Return the verdict on a difference in words, or the reason why there is none."""
    if difference.p is None:
        if difference.seeds < FEWEST:
            return f"{'one seed' if difference.seeds == 1 else 'two seeds'}: no verdict"
        return "no difference in any seed" if difference.mean == 0 else "no residual: no verdict"
    return (
        f"yes, {probability(difference.p)}"
        if difference.is_significant
        else f"no, {probability(difference.p)}; {further(difference.more)}"
    )


def _summary(
    first: SweepResults,
    second: SweepResults,
    names: Sequence[str],
    pairs: Pairs,
    differences: Sequence[Difference],
    deviation: float | None,
    df: int,
) -> list[str]:
    lines = []
    total = overall([metrics["val_accuracy"] for metrics in pairs.values()])
    if total is not None:
        bounds = "" if total.low is None else f", 95 % interval {total.low:+.4f} to {total.high:+.4f}"
        lines.append(
            f"Over {count(len(pairs), 'combination')}: {total.mean:+.4f}{bounds} ({count(total.seeds, 'seed')}). "
            f"Distinguishable from no change? {describe_verdict(total).capitalize()}."
        )
    significant = sum(difference.is_significant for difference in differences)
    if all(difference.seeds < FEWEST for difference in differences):
        lines.append(
            "No verdict on any combination: each has fewer than three seeds in common, and two settle nothing."
        )
    elif deviation:
        lines.append(
            f"{significant} of {count(len(differences), 'combination')} distinguishable. Paired by seed, pooled "
            f"residual {deviation:.2g} with {count(df, 'degree')} of freedom; p is the larger one of a test by it "
            "and one by the combination's own spread, corrected for the number of combinations (Holm); an interval is "
            "that of its own difference alone."
        )
    for sweep in (first, second):
        left_out = sweep.gaps(names)
        for values, reason in list(left_out.items())[:MOST_NAMED]:
            name = ", ".join(f"{key}={_short(value)}" for key, value in zip(names, values)) or "all seeds"
            lines.append(f"Not compared: {name}: {reason} in {sweep.folder}; the remaining seeds may be the luckiest.")
        if len(left_out) > MOST_NAMED:
            lines.append(f"Not compared for the same reason: {len(left_out) - MOST_NAMED} more in {sweep.folder}.")
        if alone := len(sweep.cells(names)) - len(pairs):
            lines.append(f"Only in {sweep.folder}, or without a shared seed: {count(alone, 'combination')}.")
    for setting, value, other_value in setting_differences(first, second, names):
        lines.append(f"What else differs: {setting}: {_short(value)} against {_short(other_value)}.")
    return lines


def _short(value: str) -> str:
    return value.removesuffix(".0") if value.replace(".", "", 1).removeprefix("-").isdigit() else value


if __name__ == "__main__":
    sys.exit(main())
