"""Means over seeds in TensorBoard: a line for each combination, with a band of one standard deviation.

Each combination of at least two finished seeds gets a TensorBoard run `SWEEP/mean/COMBINATION` with scalars only, so
it has no row in the HParams tab. Each of these runs has a layout for the Custom Scalars tab, with mean and band.
TensorBoard merges equal layouts, so several sweeps under one log folder share their charts.
"""

import hashlib
import io
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from runner.report.results.collect import RunRecord
from runner.report.results.format import band
from runner.report.results.tables import Row, summarize
from runner.store.files import RESULT, write_atomic
from runner.store.fingerprint import slug
from runner.tracking.events import is_own, next_path, purge_event, scalars_event, version_event
from runner.tracking.record_file import RecordWriter

FOLDER = "mean"  # in the sweep's folder; without a result.json, so that it does not count as a run
LOW, HIGH = "variation/low/", "variation/high/"  # prefixes of a tag; they sort after the other groups of the page
TITLE = "Mean over seeds, with one standard deviation"
TAGS = {  # column of metrics.csv -> tag
    "val_accuracy": "val/accuracy",
    "val_loss": "val/loss",
    "train_accuracy": "train/accuracy",
    "train_loss": "train/loss",
}

Curve = dict[float, tuple[float, float]]  # step -> mean and sample standard deviation


def write_aggregates(folder: Path, records: Sequence[RunRecord]) -> list[Path]:
    """Write the means of each combination with several seeds, remove outdated ones, and return the folders written.

    Only finished runs with event files count. The folder's name tells if other runs of the combination did not finish.
    """
    aggregates = [(row, curves) for row in summarize(list(records)) if (curves := _curves(_tracked(row)))]
    top = Path(folder) / FOLDER
    if not aggregates and not top.is_dir():
        return []
    top.mkdir(exist_ok=True)
    charts = _layout([tag for tag in TAGS.values() if any(tag in curves for _, curves in aggregates)])
    written = []
    with FileLock(top / ".lock"):  # because another process may finish the same sweep
        for name, (row, curves) in zip(_names([row for row, _ in aggregates]), aggregates):
            path = top / name
            path.mkdir(exist_ok=True)
            end_time = max((record.folder / "metrics.csv").stat().st_mtime for record in _tracked(row) if record.curves)
            _write(path, [version_event(), purge_event(0), charts, *_scalars(curves)], end_time)
            written.append(path)
        for path in top.iterdir():  # a folder with a result.json is a run of a sweep named SWEEP/mean
            if path.is_dir() and path not in written and not (path / RESULT).exists():
                _remove(path)
    return written


def _tracked(row: Row) -> list[RunRecord]:
    return [record for record in row.done if any(record.folder.glob("*tfevents*"))]


def _curves(records: Sequence[RunRecord]) -> dict[str, Curve]:
    """Return tag -> mean curve over the steps that all seeds have; empty for fewer than two seeds."""
    runs = [record.curves for record in records if record.curves.get("step")]
    curves = {}
    for column, tag in TAGS.items():
        seeds = [{s: v for s, v in zip(c["step"], c.get(column, [])) if None not in (s, v)} for c in runs]
        shared = sorted(set.intersection(*map(set, seeds))) if len(seeds) > 1 else []
        if shared:
            values = {step: [seed[step] for seed in seeds] for step in shared}
            curves[tag] = {step: (statistics.fmean(at), statistics.stdev(at)) for step, at in values.items()}
    return curves


def _names(rows: Sequence[Row]) -> list[str]:
    """Return a folder name for each combination; a hash is added if shortening makes two names equal.

    The name of a combination with unfinished runs says so, because the remaining seeds may be its luckiest.
    """
    slugs = [slug([f"{key}={value}" for key, value in row.values.items() if value != ""]) for row in rows]
    slugs = [
        f"{name},{row.gaps.replace(', ', '+').replace(' ', '_')}" if row.gaps else name
        for name, row in zip(slugs, rows)
    ]
    count = Counter(slugs)
    return [
        name if count[name] == 1 else f"{name}-{hashlib.sha256(row.name.encode()).hexdigest()[:10]}"
        for name, row in zip(slugs, rows)
    ]


def _scalars(curves: dict[str, Curve]) -> Iterator[Event]:
    """Yield an event for each step: the means and both bounds of the bands."""
    for step in sorted({step for curve in curves.values() for step in curve}):
        values = {}
        for tag, curve in curves.items():
            if step in curve:
                mean, deviation = curve[step]
                low, high = band(mean, deviation, tag)
                values |= {tag: mean, LOW + tag: low, HIGH + tag: high}
        yield scalars_event(int(step), values)


def _layout(used: Sequence[str]) -> Event:
    """Return the layout of the Custom Scalars tab: a chart with mean and band for each tag.

    The plugin's own helper writes the same event, but imports tensorflow.
    """
    charts = [
        layout_pb2.Chart(
            title=tag,
            margin=layout_pb2.MarginChartContent(
                series=[layout_pb2.MarginChartContent.Series(value=tag, lower=LOW + tag, upper=HIGH + tag)]
            ),
        )
        for tag in used
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title=TITLE, chart=charts)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=metadata.create_summary_metadata(), tensor=tensor)
    return Event(summary=Summary(value=[value]))


def _write(folder: Path, events: Sequence[Event], end_time: float) -> None:
    """Write a new event file with the wall time `end_time`, unless the newest file is the same already.

    The previous file stays, because an open TensorBoard reads it to its end before the next one, and then drops its
    steps. Older files are removed.
    """
    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events:
        event.wall_time = end_time
        writer.write(event.SerializeToString())
    files = sorted(filter(is_own, folder.iterdir()))
    if not files or files[-1].read_bytes() != content.getvalue():
        write_atomic(next_path(folder), content.getvalue(), durable=False)
        for path in files[:-1]:
            path.unlink()


def _remove(folder: Path) -> None:
    """Remove an outdated aggregate; files of other programs stay."""
    for path in filter(is_own, list(folder.iterdir())):
        path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
