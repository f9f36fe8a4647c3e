"""One self-contained page: what was swept, how it did, how to repeat it. It claims no winner."""

import base64
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from runner.report.collect import METRICS, STATUSES, RunRecord, natural
from runner.report.pictures import STYLES, learning_curves
from runner.report.tables import Keys, Row, Statistic, label, plain, summarize
from runner.surface.overlay import Overlay

SETTLED = 5  # seeds a combination, under which the page says that the order is not settled
MOST_DRAWINGS = 24  # pictures of single runs on one page
_TROUBLES = ("failed", "out_of_memory", "diverged")
_TITLES = {
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "epochs": "epochs",
    "seconds": "seconds",
}


def render(records: list[RunRecord], name: str, surfaces: Sequence[Overlay] = ()) -> str:
    """The page's html; runs on surfaces are shown by their overlays alone, all others as classifiers."""
    keys = Keys(records)
    trained = [record for record in records if not record.walked and not record.columns]
    others = [record for record in records if record.columns]
    rows = summarize(trained, keys)
    statuses = Counter(record.status for record in records)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "spread": spread,
        "duration": duration,
        "cell": lambda value: f"{value:.4g}" if isinstance(value, float) else "–" if value is None else plain(value),
        "small": lambda value: "–" if value is None else f"{value:.3g}",
        "embedded": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "word": lambda status: status.replace("_", " "),
    }
    combinations = [name for name in keys.names if name != "seed"]
    return environment.get_template("page.html.j2").render(
        name=name,
        made=time.strftime("%Y-%m-%d %H:%M"),
        records=records,
        rows=rows,
        names=keys.names,
        combinations=combinations,
        runs=[(record, [keys.value(record, key) for key in keys.names]) for record in trained],
        surfaces=surfaces,
        others=[(record, label(record, others), _own(record)) for record in others],
        other_titles=list(dict.fromkeys(title for record in others for title in record.columns)),
        drawings=[
            (label(record, others), file.read_bytes())
            for record in others
            for file in sorted(record.folder.glob("*.png"))
        ][:MOST_DRAWINGS],
        statuses={status: statuses[status] for status in STATUSES if statuses[status]},
        troubles=[record for status in _TROUBLES for record in records if record.status == status],
        unfinished=statuses["running"] + statuses["planned"],
        seconds=sum(record.metrics["seconds"] or 0 for record in records),
        swept=[_values(records, keys, key) for key in keys.names],
        fixed=_fixed(records, keys),
        metrics=METRICS,
        titles=_TITLES,
        styles=STYLES,
        legend=[(i, row) for i, row in enumerate(rows[: len(STYLES)]) if row.drawn],
        strip=Strip(rows),
        several=any(statistic and statistic.n > 1 for row in rows for statistic in row.metrics.values()),
        note=settled(rows),
        pictures=[(title, Markup(svg)) for title, svg in learning_curves(rows)],
        facts=_facts(records),
        commands=_counted(record.facts.get("command") for record in records),
    )


class Strip:
    """Where a validation accuracy lies between the lowest and the highest of the page: 5 to 145 pixels."""

    def __init__(self, rows: list[Row]) -> None:
        values = [value for row in rows for value in _accuracies(row)]
        self.low, self.high = min(values, default=0.0), max(values, default=0.0)

    def __bool__(self) -> bool:
        return self.high > self.low

    def dots(self, row: Row) -> list[float]:
        return [self.at(value) for value in _accuracies(row)]

    def at(self, value: float) -> float:
        return round(5 + 140 * (value - self.low) / (self.high - self.low), 1)


def settled(rows: list[Row]) -> str:
    """What the number of seeds allows to say about the order of the table."""
    counts = [row.metrics["val_accuracy"].n for row in rows if row.metrics["val_accuracy"]]
    if not counts:
        return "No run has finished yet, so there is nothing to order."
    if len(counts) == 1:
        return "One combination has finished: there is nothing to compare it with." + (
            " It has one seed, and one seed settles nothing: another can give another number." if counts == [1] else ""
        )
    few, many = min(counts), max(counts)
    seeds = f"{few}" if few == many else f"{few} to {many}"
    if many == 1:
        return (
            "Not settled: each combination has one seed, and one seed settles nothing. Another seed can turn "
            "this order round; sweep the seed as well (seed=0,1,2,3,4)."
        )
    if few < SETTLED:
        return (
            f"Not settled: the combinations have {seeds} seeds each. With fewer than {SETTLED} the order of "
            "rows that lie near each other is mostly chance; look at the dots, and at how far they overlap."
        )
    return (
        f"Ordered by the mean over {seeds} seeds. The order alone shows no difference between methods: look "
        "at how far the dots overlap, and whether each combination had its own learning rates to choose from."
    )


def number(value: float | None, metric: str) -> str:
    """Accuracies and losses with four digits after the point, a lone seconds with one."""
    if value is None:
        return "–"
    if metric == "epochs":
        return f"{value:.1f}".removesuffix(".0")
    if metric == "seconds":
        return f"{value:,.1f}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def spread(statistic: Statistic | None, metric: str) -> str:
    """`0.9123 ± 0.0021`; one value stands alone."""
    if statistic is None:
        return "–"
    mean = number(statistic.mean, metric)
    if statistic.deviation is None or metric == "epochs":
        return mean
    return f"{mean} ± {number(statistic.deviation, metric)}"


def duration(seconds: float) -> str:
    """`1 h 5 min`, `2 min 3 s`, `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _own(record: RunRecord) -> dict[str, Any]:
    """What a task of another kind shows of a run: title -> value."""
    return {title: record.facts.get(key, record.metrics.get(key)) for title, key in record.columns.items()}


def _accuracies(row: Row) -> list[float]:
    values = [record.metrics["val_accuracy"] for record in row.done]
    return [value for value in values if value is not None]


def _values(records: list[RunRecord], keys: Keys, key: str) -> tuple[str, str, int]:
    """(key, its values in short, how many)"""
    values = sorted({keys.value(record, key) for record in records if not record.damaged}, key=natural)
    shown = [value or "(not set)" for value in values]
    if len(shown) > 12:
        shown = [*shown[:6], "…", *shown[-3:]]
    return key, ", ".join(shown), len(values)


def _fixed(records: list[RunRecord], keys: Keys) -> list[str]:
    """What was typed the same for every run."""
    sets = [
        {override for override in record.overrides if override.lstrip("+").partition("=")[0] not in keys.names}
        for record in records
        if not record.damaged
    ]
    return sorted(set.intersection(*sets), key=natural) if sets else []


def _facts(records: list[RunRecord]) -> list[tuple[str, list[tuple[str, int]]]]:
    """What a reader needs to repeat the runs: (what, its distinct values and how many runs have each)."""

    def data(record: RunRecord) -> str | None:
        about = record.facts.get("data")
        if not isinstance(about, dict):
            return None
        sizes = [f"{about[part]} {part}" for part in ("train", "val", "test") if about.get(part) is not None]
        skipped = [f"{plain(about['skipped'])} skipped"] if about.get("skipped") else []
        return f"{about.get('identity', '')} ({', '.join(sizes + skipped)})"

    def versions(record: RunRecord) -> str | None:
        known = record.facts.get("versions")
        return ", ".join(f"{k} {v}" for k, v in known.items()) if isinstance(known, dict) else None

    started = sorted(str(record.facts["started"]) for record in records if record.facts.get("started"))
    facts = {
        "data": map(data, records),
        "device": (record.facts.get("device") for record in records),
        "threads": (record.facts.get("threads") for record in records),
        "versions": map(versions, records),
        "git commit": (record.facts.get("git_commit") for record in records),
        "parameters": (
            f"{value:,}" if isinstance(value := record.facts.get("parameters"), int) else value for record in records
        ),
        "first start": started[:1],
        "last start": started[-1:] if len(started) > 1 else [],
    }
    counted = ((what, _counted(values)) for what, values in facts.items())
    return [(what, values) for what, values in counted if values]


def _counted(values: Iterable[Any]) -> list[tuple[str, int]]:
    return Counter(plain(value) for value in values if value is not None).most_common()
