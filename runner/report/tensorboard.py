"""The seeds of a combination as one more line in TensorBoard: their mean, with a band of one standard deviation.

Each combination of at least two finished seeds gets a TensorBoard run `SWEEP/mean/COMBINATION` of scalars alone: it
makes no row in the HParams tab. The Custom Scalars tab draws mean and band from the layout that stands in each of
them; TensorBoard shows equal layouts once, so several sweeps under one log folder share their charts.
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

FOLDER = "mean"  # in the sweep's folder; it holds no result.json, so that nothing takes it for a run
LOW, HIGH = "variation/low/", "variation/high/"  # before the tag: a group of their own, the last one of the page
TITLE = "Mean over seeds, with one standard deviation"
TAGS = {  # column of metrics.csv -> tag
    "val_accuracy": "val/accuracy",
    "val_loss": "val/loss",
    "train_accuracy": "train/accuracy",
    "train_loss": "train/loss",
}

Curve = dict[float, tuple[float, float]]  # step -> mean and sample standard deviation


def write_aggregates(folder: Path, records: Sequence[RunRecord]) -> list[Path]:
    """Writes the aggregate of each combination that has several seeds, and removes those of an earlier call.

    Only runs that are done and left event files count; the folder's name says where others of the combination did not
    finish. Returns the folders written.
    """
    found = [(row, curves) for row in summarize(list(records)) if (curves := _curves(_tracked(row)))]
    top = Path(folder) / FOLDER
    if not found and not top.is_dir():
        return []
    top.mkdir(exist_ok=True)
    charts = _layout([tag for tag in TAGS.values() if any(tag in curves for _, curves in found)])
    written = []
    with FileLock(top / ".lock"):  # another terminal may end the same sweep
        for name, (row, curves) in zip(_names([row for row, _ in found]), found):
            path = top / name
            path.mkdir(exist_ok=True)
            ended = max((record.folder / "metrics.csv").stat().st_mtime for record in _tracked(row) if record.curves)
            _write(path, [version_event(), purge_event(0), charts, *_scalars(curves)], ended)
            written.append(path)
        for path in top.iterdir():
            if path.is_dir() and path not in written and not (path / RESULT).exists():  # a run of the sweep SWEEP/mean
                _remove(path)
    return written


def _tracked(row: Row) -> list[RunRecord]:
    return [record for record in row.done if any(record.folder.glob("*tfevents*"))]


def _curves(records: Sequence[RunRecord]) -> dict[str, Curve]:
    """tag -> its curve over the seeds, as far as all of them got; empty for fewer than two seeds."""
    drawn = [record.curves for record in records if record.curves.get("step")]
    curves = {}
    for column, tag in TAGS.items():
        seeds = [{s: v for s, v in zip(c["step"], c.get(column, [])) if None not in (s, v)} for c in drawn]
        shared = sorted(set.intersection(*map(set, seeds))) if len(seeds) > 1 else []
        if shared:
            values = {step: [seed[step] for seed in seeds] for step in shared}
            curves[tag] = {step: (statistics.fmean(at), statistics.stdev(at)) for step, at in values.items()}
    return curves


def _names(rows: Sequence[Row]) -> list[str]:
    """A folder's name for each combination; two that were cut to the same words are told apart by a hash.

    Of a combination with runs that did not finish it says so: what is left may be its luckiest seeds.
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
    """One event a step: means and both ends of the bands."""
    for step in sorted({step for curve in curves.values() for step in curve}):
        values = {}
        for tag, curve in curves.items():
            if step in curve:
                mean, deviation = curve[step]
                low, high = band(mean, deviation, tag)
                values |= {tag: mean, LOW + tag: low, HIGH + tag: high}
        yield scalars_event(int(step), values)


def _layout(used: Sequence[str]) -> Event:
    """The Custom Scalars tab: a chart with a band for each tag.

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


def _write(folder: Path, events: Sequence[Event], ended: float) -> None:
    """A new event file, where the newest one is not the same already; `ended` is the time that its events bear.

    The one before stays: an open TensorBoard has to read it to its end before it goes on to the next, and then drops
    its steps. Older ones go.
    """
    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events:
        event.wall_time = ended
        writer.write(event.SerializeToString())
    old = sorted(filter(is_own, folder.iterdir()))
    if not old or old[-1].read_bytes() != content.getvalue():
        write_atomic(next_path(folder), content.getvalue(), durable=False)
        for path in old[:-1]:
            path.unlink()


def _remove(folder: Path) -> None:
    """An aggregate that no longer is; what somebody else put there stays."""
    for old in filter(is_own, list(folder.iterdir())):
        old.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
