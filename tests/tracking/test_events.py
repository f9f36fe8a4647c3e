"""Event files as TensorBoard itself reads them."""

import io
import json
import math
import subprocess
import sys
import warnings

import numpy as np
from PIL import Image

with warnings.catch_warnings():  # tensorboard's vendored bleach warns about itself
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.hparams_plugin import HParamsPlugin
    from tensorboard.summary.writer import record_writer
    from werkzeug.test import Client
from runner.tracking.events import Tracker
from runner.tracking.record_file import RecordWriter
from tests.shared.events import accumulate

STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


def ask_hparams(logdir):
    """(columns, rows by name) as TensorBoard's HParams tab gets them."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    apps = HParamsPlugin(TBContext(data_provider=provider, logdir=str(logdir))).get_plugin_apps()
    columns = json.loads(Client(apps["/experiment"]).post("/", json={}).data)
    request = {"allowedStatuses": STATUSES, "startIndex": 0, "sliceSize": 1000}
    rows = json.loads(Client(apps["/session_groups"]).post("/", json=request).data)
    return columns, {row["name"]: row for row in rows["sessionGroups"]}


def test_import_is_light():
    """Neither torch nor tensorflow nor matplotlib is loaded to write events or draw pictures."""
    code = (
        "import sys, runner.tracking.events, runner.tracking.pictures as p\n"
        "p.batch_grid([[[[0.5]]]], ['a'])\n"
        "assert not {'torch', 'tensorflow', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tags_and_values(tmp_path):
    """Scalars, a picture and a text come out as they were put in, each step once."""
    tracker = Tracker(tmp_path)
    tracker.scalars(1, {"train/loss": 0.5, "val/accuracy": 0.25})
    tracker.scalars(2, {"train/loss": math.nan})
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    tracker.picture("batch", 3, image)
    tracker.text("config", "`lr: 0.1`")
    tracker.close(None)
    read = accumulate(tmp_path)
    assert [(event.step, event.value) for event in read.Scalars("val/accuracy")] == [(1, 0.25)]
    losses = read.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 2] and math.isnan(losses[1].value)
    (picture,) = read.Images("batch")
    assert (picture.step, picture.width, picture.height) == (3, 5, 4)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), image)
    (text,) = read.Tensors("config/text_summary")
    assert text.tensor_proto.string_val == [b"`lr: 0.1`"]


def test_flush_makes_values_visible_while_the_run_goes_on(tmp_path):
    """After `flush` another process reads what was written so far."""
    tracker = Tracker(tmp_path)
    tracker.scalars(1, {"train/loss": 0.5})
    tracker.flush()
    assert len(accumulate(tmp_path).Scalars("train/loss")) == 1
    tracker.close(None)


def test_resume_drops_the_steps_that_are_repeated(tmp_path):
    """A resumed run's steps replace those written before the kill; earlier ones stay, for all tags."""
    first = Tracker(tmp_path)
    for step in range(6):
        first.scalars(step, {"train/loss": step, "val/loss": step})
    first.flush()  # and no close: the process was killed
    second = Tracker(tmp_path, purge_step=3)
    second.scalars(3, {"train/loss": 30})
    second.close(None)
    read = accumulate(tmp_path)
    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 30),
    ]
    assert [event.step for event in read.Scalars("val/loss")] == [0, 1, 2]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2
    first.close(None)


def test_start_from_the_beginning_removes_an_earlier_attempt(tmp_path):
    """Without `purge_step` nothing of an attempt that failed is left to be shown."""
    first = Tracker(tmp_path)
    first.scalars(7, {"test/accuracy": 0.9})
    first.close("failed")
    second = Tracker(tmp_path)
    second.scalars(1, {"train/loss": 1.0})
    second.close("done")
    assert accumulate(tmp_path).Tags()["scalars"] == ["train/loss"]
    assert [path.name.split(".")[0] for path in sorted(tmp_path.iterdir())] == ["end", "events"]


def write_run(folder, hparams, status, accuracy):
    tracker = Tracker(folder)
    tracker.hparams(hparams)
    tracker.scalars(1, {"val/accuracy": accuracy})
    tracker.scalars(2, {"val/accuracy": accuracy, "test/accuracy": accuracy / 2})
    tracker.close(status)


def test_hparams_of_two_sweeps_stand_side_by_side(tmp_path):
    """One row a run (seeds are not merged), every sweep's columns, last metrics, status as word and state."""
    for seed in (0, 1):
        write_run(tmp_path / "first" / f"s{seed}", {"optimizer": "adam", "seed": seed, "note": None}, "done", 0.5)
    write_run(tmp_path / "second" / "a", {"optimizer.lr": 0.1, "flag": True}, "diverged", 0.25)
    write_run(tmp_path / "second" / "b", {"optimizer.lr": 0.2, "flag": False}, None, 0.75)
    columns, rows = ask_hparams(tmp_path)
    assert {info["name"]: info["type"] for info in columns["hparamInfos"]} == {
        "optimizer": "DATA_TYPE_STRING",
        "seed": "DATA_TYPE_FLOAT64",
        "optimizer.lr": "DATA_TYPE_FLOAT64",
        "flag": "DATA_TYPE_BOOL",
        "status": "DATA_TYPE_STRING",
    }
    assert {info["name"]["tag"] for info in columns["metricInfos"]} == {"val/accuracy", "test/accuracy"}
    assert {name: row["hparams"] for name, row in rows.items()} == {
        "first/s0": {"optimizer": "adam", "seed": 0, "status": "done"},
        "first/s1": {"optimizer": "adam", "seed": 1, "status": "done"},
        "second/a": {"optimizer.lr": 0.1, "flag": True, "status": "diverged"},
        "second/b": {"optimizer.lr": 0.2, "flag": False},
    }
    assert {name: row["sessions"][0]["status"] for name, row in rows.items()} == {
        "first/s0": "STATUS_SUCCESS",
        "first/s1": "STATUS_SUCCESS",
        "second/a": "STATUS_FAILURE",
        "second/b": "STATUS_UNKNOWN",
    }
    metrics = {metric["name"]["tag"]: metric["value"] for metric in rows["second/a"]["metricValues"]}
    assert metrics == {"val/accuracy": 0.25, "test/accuracy": 0.125}


def test_a_run_that_is_tried_again_ends_anew(tmp_path):
    """`failed` does not stick: after a resume the row has the new status and the same start."""
    write_run(tmp_path / "run", {"seed": 0}, "failed", 0.5)
    again = Tracker(tmp_path / "run", purge_step=2)
    again.hparams({"seed": 0})
    again.scalars(2, {"val/accuracy": 0.75})
    _, rows = ask_hparams(tmp_path)
    assert rows["run"]["hparams"] == {"seed": 0}
    again.close("done")
    again.close("failed")  # says nothing any more
    _, rows = ask_hparams(tmp_path)
    assert rows["run"]["hparams"] == {"seed": 0, "status": "done"}
    assert rows["run"]["sessions"][0]["status"] == "STATUS_SUCCESS"


def test_records_are_tensorboards_own():
    """Byte for byte what TensorBoard's writer writes, of empty, short and long records."""
    ours, theirs = io.BytesIO(), io.BytesIO()
    for data in (b"", b"a", bytes(range(256)) * 300):
        RecordWriter(ours).write(data)
        record_writer.RecordWriter(theirs).write(data)
    assert ours.getvalue() == theirs.getvalue()
