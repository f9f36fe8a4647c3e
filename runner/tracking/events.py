"""Writer of TensorBoard event files, without tensorflow and without torch's SummaryWriter.

All events of a run are in the run's own folder, so that a run is one line in every plot and one row in the
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
_END = "end"  # TensorBoard reads a run's files in alphabetical order: `end.*.tfevents` before `events.*`
_FLUSH_SECONDS = 5.0  # how far an open TensorBoard may lag behind; `_add` checks it, without a thread


class Tracker:
    """Tracker: writes the TensorBoard event file of one run.

    `purge_step` is the first step that a resumed run repeats: TensorBoard drops earlier events of that step and
    later ones. None starts from the beginning: event files of an earlier attempt in `folder` are removed, those of
    other programs stay.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        # The end of an earlier attempt is removed, because a resumed run writes its own.
        for path in filter(is_own, self._folder.iterdir()):
            if purge_step is None or path.name.startswith(f"{_END}."):
                path.unlink()
        self._writer = _open(next_path(self._folder))
        self._hparams: dict[str, HParam] = {}
        self._start_seconds = time.time()
        self._flushed = time.monotonic()
        self._add(purge_event(purge_step or 0))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write all `values` (tag -> number) of a step as one event; TensorBoard marks NaN and infinities."""
        self._add(scalars_event(step, values))

    def picture(self, tag: str, step: int, image: np.ndarray | bytes) -> None:
        """Write an image: uint8 [H, W, 3], or the content of a PNG file."""
        content = image if isinstance(image, bytes) else png(image)
        width, height = struct.unpack(">II", content[16:24])  # in the first chunk of a PNG (IHDR)
        summary = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=summary)])))

    def text(self, tag: str, markdown: str) -> None:
        """Write Markdown to the Text tab, at step 0."""
        tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._add(
            Event(summary=Summary(value=[Summary.Value(tag=f"{tag}/text_summary", metadata=plugin, tensor=tensor)]))
        )

    def hparams(self, values: Mapping[str, HParam | None]) -> None:
        """Open the run's row in the HParams tab.

        A key with the value None is left out: written as a string, it would turn a numeric column into text.
        """
        self._hparams = {name: value for name, value in values.items() if value is not None}
        self._add(_start_event(self._hparams, self._start_seconds))
        self.flush()

    def flush(self) -> None:
        """Flush buffered events to the file, so that TensorBoard's next reload shows them."""
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self, status: str | None) -> None:
        """Close the file. A final `status` ends the run's row too; None leaves it open for a later resume.

        TensorBoard keeps the first start and the first end of a session that it reads. So the end is in a file that
        sorts first and repeats the start, with the status as one more column. A TensorBoard opened later shows this
        column; one that is open already shows success or failure. The separate file can be removed when the run is
        resumed.
        """
        if self._writer.closed:  # by an earlier call
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
    """Return whether this module wrote the event file at `path`, judging by its name."""
    return EVENTS.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def next_path(folder: Path) -> Path:
    """Return a path that sorts after the existing event files, even if the clock went back or stood still."""
    seconds = int(time.time())
    for path in folder.glob(f"{_EVENTS}.*"):
        stamp = path.name.removeprefix(f"{_EVENTS}.").split(".")[0]
        if stamp.isdecimal():
            seconds = max(seconds, int(stamp) + 1)
    return folder / f"{_EVENTS}.{seconds:010d}.{os.getpid()}"


def version_event() -> Event:
    """Return the event that every file starts with: the version of the format."""
    return Event(wall_time=time.time(), file_version="brain.Event:2")


def purge_event(step: int) -> Event:
    """Return a START event, at which TensorBoard drops events of earlier files from `step` on.

    Every file has one, because TensorBoard drops nothing at the first START of a run.
    """
    return Event(session_log=SessionLog(status=SessionLog.START), step=step)


def scalars_event(step: int, values: Mapping[str, float]) -> Event:
    """Return one event with all `values` (tag -> number) of a step."""
    return Event(
        step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()])
    )


def _open(path: Path) -> RecordWriter:
    writer = RecordWriter(path.open("wb"))
    writer.write(version_event().SerializeToString())
    return writer


def _start_event(hparams: Mapping[str, HParam], start_seconds: float) -> Event:
    start = SessionStartInfo(start_time_secs=start_seconds)
    for name, value in hparams.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        elif math.isfinite(value):  # TensorBoard cannot show NaN or infinity in a cell
            start.hparams[name].number_value = value
    return _session_event(metadata.SESSION_START_INFO_TAG, session_start_info=start)


def _session_event(tag: str, **content: SessionStartInfo | SessionEndInfo) -> Event:
    value = Summary.Value(
        tag=tag,
        metadata=metadata.create_summary_metadata(HParamsPluginData(**content)),
        tensor=metadata.NULL_TENSOR,
    )
    return Event(wall_time=time.time(), summary=Summary(value=[value]))
