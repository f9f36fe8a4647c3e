"""The report as one self-contained HTML page: verdict, tables, effects of factors, plots, how to repeat the runs."""

import base64
import functools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from runner.core.text import duration, number
from runner.report.ensemble_section import ensembles
from runner.report.factor_section import Design, design
from runner.report.pictures.curves import learning_curves
from runner.report.pictures.overview import costs, memory, seconds
from runner.report.pictures.svg import STYLES
from runner.report.results.collect import METRICS, STATUSES, RunRecord, natural
from runner.report.results.format import count, further, spread
from runner.report.results.keys import SweptKeys, label, plain
from runner.report.results.provenance import mixed, states
from runner.report.results.tables import Row, Statistic, summarize
from runner.report.statistics.conclusion import interval, verdict
from runner.report.statistics.notes import weights_of
from runner.report.surfaces import Overlay

MOST_DRAWINGS = 24  # pictures of single runs on a page
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
    """Return the page as HTML. Runs of `task=surface` appear only in their overlays, `surfaces`."""
    keys = SweptKeys(records)
    trained = [record for record in records if not record.is_surface and not record.columns]
    others = [record for record in records if record.columns]
    judged = verdict(summarize(trained, keys), keys)
    rows = judged.rows
    statuses = Counter(record.status for record in records)
    times = [mean for row in rows if (mean := seconds(row)) is not None]
    peaks = [memory(row) for row in rows]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            name=name,
            made=time.strftime("%Y-%m-%d %H:%M"),
            records=records,
            rows=rows,
            verdict=judged,
            design=_safe(design(rows, keys)),
            names=keys.names,
            combinations=[name for name in keys.names if name != "seed"],
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
            unfinished=sum(statuses[status] for status in ("interrupted", "not started", "running", "planned")),
            seconds=sum(record.metrics["seconds"] or 0 for record in records),
            fastest=min(times, default=0.0),
            slowest=max(times, default=0.0),
            peaks=peaks if any(peak is not None for peak in peaks) else None,
            costs=_marked(costs(rows)),
            ensembles=ensembles(rows),
            swept=[_values(records, keys, key) for key in keys.names],
            fixed=_fixed(records, keys),
            metrics=METRICS,
            titles=_TITLES,
            styles=STYLES,
            legend=[(i, row) for i, row in enumerate(rows[: len(STYLES)]) if row.has_curves],
            strip=Strip(rows),
            several=any(statistic and statistic.n > 1 for row in rows for statistic in row.metrics.values()),
            pictures=_marked(learning_curves(rows)),
            facts=_facts(records),
            states=states(records),
            mixed=mixed(rows),
            outdated=[(record, behind) for record in records if (behind := keys.programs.older(record))],
            commands=_counted(record.facts.get("command") for record in records),
        )
    )


@functools.cache
def environment() -> jinja2.Environment:
    """Return the Jinja environment of the page, with its filters; compiled templates are cached in it."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {
        "number": functools.partial(number, missing="–"),
        "spread": spread,
        "duration": duration,
        "count": count,
        "further": further,
        "interval": _interval,
        "sortable": lambda value: f"{value:.7g}",
        "cell": lambda value: f"{value:.4g}" if isinstance(value, float) else "–" if value is None else plain(value),
        "small": lambda value: "–" if value is None else f"{value:.3g}",
        "small_p": lambda p: "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "embedded": lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}",
        "word": lambda status: status.replace("_", " "),
    }
    return templates


def _marked(pictures: Iterable[tuple[str, str]]) -> list[tuple[str, Markup]]:
    """Mark SVG as safe for the template: `to_svg` has escaped its text."""
    return [(title, Markup(svg)) for title, svg in pictures]


def _safe(section: Design | None) -> Design | None:
    if section is None:
        return None
    return replace(section, panels=_marked(section.panels), parallel=section.parallel and Markup(section.parallel))


def _interval(statistic: Statistic | None) -> str:
    ends = interval(statistic)
    return " to ".join(number(end, "val_accuracy") for end in ends) if ends else "–"


class Strip:
    """Strip plot: maps validation accuracies, lowest to highest of the page, to 5 to 145 pixels."""

    def __init__(self, rows: list[Row]) -> None:
        values = [value for row in rows for value in _accuracies(row)]
        self.low, self.high = min(values, default=0.0), max(values, default=0.0)

    def __bool__(self) -> bool:
        return self.high > self.low

    def dots(self, row: Row) -> list[float]:
        return [self.at(value) for value in _accuracies(row)]

    def at(self, value: float) -> float:
        return round(5 + 140 * (value - self.low) / (self.high - self.low), 1)


def _own(record: RunRecord) -> dict[str, Any]:
    """Return title -> value of a run's result, for a task that does not train (`RunRecord.columns`)."""
    return {title: record.facts.get(key, record.metrics.get(key)) for title, key in record.columns.items()}


def _accuracies(row: Row) -> list[float]:
    values = [record.metrics["val_accuracy"] for record in row.done]
    return [value for value in values if value is not None]


def _values(records: list[RunRecord], keys: SweptKeys, key: str) -> tuple[str, str, int]:
    """Return a swept key, its values (shortened), and how many there are."""
    values = sorted({keys.value(record, key) for record in records if not record.is_damaged}, key=_size)
    shown = [value or "(not set)" for value in values]
    if len(shown) > 12:
        shown = [*shown[:6], "…", *shown[-3:]]
    return key, ", ".join(shown), len(values)


def _size(value: str) -> tuple[int, float, list]:
    """Return a sort key: numbers by size, then strings."""
    try:
        return 0, float(value), []
    except ValueError:
        return 1, 0.0, natural(value)


def _fixed(records: list[RunRecord], keys: SweptKeys) -> list[str]:
    """Return the overrides that all runs have in common, without swept keys."""
    sets = [
        {override for override in record.overrides if override.lstrip("+").partition("=")[0] not in keys.names}
        for record in records
        if not record.is_damaged
    ]
    return sorted(set.intersection(*sets), key=natural) if sets else []


def _facts(records: list[RunRecord]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Return the facts needed to repeat the runs: (title, its distinct values with the number of runs of each)."""

    def data(record: RunRecord) -> str | None:
        about = record.facts.get("data")
        if not isinstance(about, dict):
            return None
        sizes = [f"{about[part]} {part}" for part in ("train", "val", "test") if about.get(part) is not None]
        skipped = [f"{plain(about['skipped'])} skipped"] if about.get("skipped") else []
        return f"{about.get('identity', '')} ({', '.join(sizes + skipped)})"

    def versions(record: RunRecord) -> str | None:
        packages = record.facts.get("versions")
        return ", ".join(f"{k} {v}" for k, v in packages.items()) if isinstance(packages, dict) else None

    started = sorted(str(record.facts["started"]) for record in records if record.facts.get("started"))
    facts = {
        "data": map(data, records),
        "weights tested": map(_weights, records),
        "device": (record.facts.get("device") for record in records),
        "threads": (record.facts.get("threads") for record in records),
        "versions": map(versions, records),
        "parameters": (
            f"{value:,}" if isinstance(value := record.facts.get("parameters"), int) else value for record in records
        ),
        "first start": started[:1],
        "last start": started[-1:] if len(started) > 1 else [],
    }
    counted = ((title, _counted(values)) for title, values in facts.items())
    return [(title, values) for title, values in counted if values]


def _weights(record: RunRecord) -> str | None:
    """Return the epoch, in words, of the tested weights and the reason; None if the result does not contain it."""
    words = weights_of(record)
    return words and f"{words}: {record.facts['select'].get('reason')}"


def _counted(values: Iterable[Any]) -> list[tuple[str, int]]:
    return Counter(plain(value) for value in values if value is not None).most_common()
