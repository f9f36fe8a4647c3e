"""`task=predict`: predictions of finished runs for a folder of photos."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.data.decode import decode
from runner.task.predict import grey
from tests.shared.finished_runs import answer
from tests.shared.results import result_of


@pytest.fixture
def photos(tmp_path):
    """A folder of photos: coloured, of several sizes, one below another folder, one that is none."""
    root, draws = tmp_path / "photos", np.random.default_rng(0)
    (root / "deep").mkdir(parents=True)
    for name, shape in (("b.png", (20, 30, 3)), ("deep/a.png", (16, 12, 3)), ("c.jpg", (9, 9, 3))):
        Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)).save(root / name)
    (root / "broken.jpg").write_bytes(b"no photo")
    (root / "notes.txt").write_text("")
    return root


@pytest.mark.parametrize("words", [("task.checkpoint=GROUP",), ("ensemble=checkpoints", "ensemble.runs=[PLAIN,EMA]")])
def test_predict(cli, runs, photos, words):
    """Each photo's row: its file, the most probable class, and the probabilities that the loaded networks give."""
    for name in ("plain", "ema", "group"):
        words = [word.replace(name.upper(), str(runs / name)) for word in words]
    code, _, err = cli("task=predict", f"task.images={photos}", "threads=1", *words)
    assert code == 0, err
    (path,) = Path("outputs/runs").glob("*/predictions.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["file"] for row in rows] == ["b.png", "broken.jpg", "c.jpg", "deep/a.png"]
    assert rows[1]["class"] == "" and result_of(Path("outputs/runs"))["skipped"] == ["broken.jpg"]
    for row in (rows[0], rows[2], rows[3]):
        image = Image.fromarray(decode(str(photos / row["file"]), 8).transpose(1, 2, 0)).convert("L")
        image = torch.from_numpy(np.array(image))[None, None]
        if words[0].startswith("task"):
            expected = answer(runs / "group", image)[0]
        else:
            expected = (answer(runs / "plain", image)[0] + answer(runs / "ema", image)[0]) / 2
        found = [float(row[f"p_{name}"]) for name in "0123456789"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        assert row["class"] == str(int(expected.argmax())) and float(row["probability"]) == max(found)


def test_grey_is_pillows():
    """A colour photo becomes grey as Pillow makes it, to the last level."""
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 9, 9), dtype=np.uint8)
    for mine, image in zip(grey(images), images):
        theirs = np.array(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
        assert np.abs(mine[0].astype(int) - theirs).max() <= 1
    same = np.repeat(images[:, :1], 3, 1)
    np.testing.assert_array_equal(grey(same), same[:, :1])


PREDICT = {
    "no folder": ((), "task.images is missing: a folder of images"),
    "nowhere": (("task.images=nowhere",), "task.images=nowhere: no such folder"),
    "no photos": (("task.images=empty",), "task.images=empty: no images there"),
    "data": (("task.images=PHOTOS", "data=digits"), "data=digits: this task has no use for it"),
    "soup": (
        ("task.images=PHOTOS", "ensemble=soup", "ensemble.runs=[PLAIN,START]"),
        "task=evaluate does that and saves",
    ),
}


@pytest.mark.parametrize("what", PREDICT)
def test_predict_refuses(cli, runs, photos, what):
    """No folder, no photos, options that it has no use for: one line."""
    words, line = PREDICT[what]
    for mark, path in (("PHOTOS", photos), ("PLAIN", runs / "plain"), ("START", runs / "start")):
        words = [word.replace(mark, str(path)) for word in words]
    mine = [] if what == "soup" else [f"task.checkpoint={runs / 'plain'}"]
    Path("empty").mkdir()
    code, _, err = cli("task=predict", "threads=1", *mine, *words)
    assert code == 2 and line in err and err.count("\n") == 1, err
