"""TensorBoard's event files, written without tensorflow and without torch's SummaryWriter.

Everything of a run lies in the run's own folder, so that a run is one line in every plot and one row in the
HParams tab. No `Experiment` summary and no `group_name` is written: the first would fix the columns of every
sweep under the same log folder, the second would merge seeds into one row.
"""

import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from runner.store.files import EVENTS, png
from runner.tracking.record_file import RecordWriter

HParam = str | int | float | bool

_EVENTS = "events.out.tfevents"
_END = "end"  # TensorBoard reads a run's files in the order of their names: `end.*.tfevents` before `events.*`
_FLUSH_SECONDS = 5.0  # how far an open TensorBoard may lag behind; no thread is needed for it


class Tracker:
    """The event file of one run.

    `purge_step` is the first step that a resumed run will do again: TensorBoard drops what was written at
    that step and later. None starts from the beginning: events that an earlier attempt left in `folder` are
    removed, those of other programs stay.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # A run that is opened again has not ended; its end is written anew.
        for old in filter(is_own, self._folder.iterdir()):
            if purge_step is None or old.name.startswith(f"{_END}."):
                old.unlink()
        self._writer = _open(next_path(self._folder))
        self._hparams: dict[str, HParam] = {}
        self._start_seconds = time.time()
        self._flushed = time.monotonic()
        self._add(begin(purge_step or 0))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """All `values` (tag: number) of one step in one event; NaN and infinities are marked in the plot."""
        self._add(scalars_event(step, values))

    def picture(self, tag: str, step: int, image: np.ndarray | bytes) -> None:
        """`image` uint8 [H, W, 3], or a PNG file's content."""
        content = image if isinstance(image, bytes) else png(image)
        width, height = struct.unpack(">II", content[16:24])  # of a PNG's first chunk
        summary = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=summary)])))

    def text(self, tag: str, markdown: str) -> None:
        """Markdown in the Text tab, at step 0."""
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._add(
            Event(summary=Summary(value=[Summary.Value(tag=f"{tag}/text_summary", metadata=plugin, tensor=tensor)]))
        )

    def hparams(self, values: Mapping[str, HParam | None]) -> None:
        """Opens the run's row in the HParams tab.

        A key without a value is left out: as a word it would turn a column of numbers into one of text.
        """
        self._hparams = {name: value for name, value in values.items() if value is not None}
        self._add(_start_event(self._hparams, self._start_seconds))
        self.flush()

    def flush(self) -> None:
        """What was written is now in the file, and TensorBoard's next reload shows it."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self, status: str | None) -> None:
        """Ends the file; a final `status` ends the run's row too, None leaves it open for a later resume.

        TensorBoard keeps the first start and the first end of a session that it reads. So the end stands in a
        file that sorts first and repeats the start with the status as one more column: a TensorBoard that is
        opened later shows the word, one that was open already shows success or failure. A file of its own can
        be taken back when the run is tried again.
        """
        if self._writer.closed:  # the end is written once
            return
        self._writer.close()
        if status is None:
            return
        end = SessionEndInfo(
            status=api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE,
            end_time_secs=time.time(),
        )
        writer = _open(self._folder / f"{_END}.{time.time_ns()}.tfevents")
        writer.write(_start_event({**self._hparams, "status": status}, self._start_seconds).SerializeToString())
        writer.write(_session_event(metadata.SESSION_END_INFO_TAG, session_end_info=end).SerializeToString())
        writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()


def is_own(path: Path) -> bool:
    """Tell an event file that this module wrote from other programs'."""
    return EVENTS.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def next_path(folder: Path) -> Path:
    """A name that sorts after the files that are there, even if the clock went back or stood still."""
    seconds = int(time.time())
    for old in folder.glob(f"{_EVENTS}.*"):
        stamp = old.name.removeprefix(f"{_EVENTS}.").split(".")[0]
        if stamp.isdecimal():
            seconds = max(seconds, int(stamp) + 1)
    return folder / f"{_EVENTS}.{seconds:010d}.{os.getpid()}"


def version() -> Event:
    """What every file starts with."""
    return Event(wall_time=time.time(), file_version="brain.Event:2")


def begin(step: int) -> Event:
    """Drops what earlier files hold from `step` on.

    The first START of a run is only remembered, every later one purges: so each file has one.
    """
    return Event(session_log=SessionLog(status=SessionLog.START), step=step)


def scalars_event(step: int, values: Mapping[str, float]) -> Event:
    """All `values` (tag: number) of one step."""
    return Event(
        step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()])
    )


def _open(path: Path) -> RecordWriter:
    writer = RecordWriter(path.open("wb"))
    writer.write(version().SerializeToString())
    return writer


def _start_event(hparams: Mapping[str, HParam], start_seconds: float) -> Event:
    start = SessionStartInfo(start_time_secs=start_seconds)
    for name, value in hparams.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        elif math.isfinite(value):  # a cell cannot hold another number
            start.hparams[name].number_value = value
    return _session_event(metadata.SESSION_START_INFO_TAG, session_start_info=start)


def _session_event(tag: str, **content: SessionStartInfo | SessionEndInfo) -> Event:
    value = Summary.Value(
        tag=tag,
        metadata=metadata.create_summary_metadata(HParamsPluginData(**content)),
        tensor=metadata.NULL_TENSOR,
    )
    return Event(wall_time=time.time(), summary=Summary(value=[value]))
