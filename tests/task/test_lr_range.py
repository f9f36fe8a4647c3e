"""The range test: the sweep of rates, the suggestion, what it leaves, and that the suggestion trains."""

import csv
import json
import math

import numpy as np
import pytest

from runner.__main__ import main
from runner.schedule.base import Timeline
from runner.task.lr_range import EXPLODED, RangeSchedule, smooth, suggest

WORDS = ["task=lr_range", "model=mlp", "optimizer=sgd", "threads=1", "name=r"]


def test_the_rate_grows_by_the_same_factor():
    """From the first to the last rate over the steps, whatever the optimizer's own rate."""
    sweep = RangeSchedule(Timeline(50, 7), 1e-4, 1.0, base=0.3)
    rates = [0.3 * sweep(step) for step in range(50)]
    assert rates == pytest.approx(np.geomspace(1e-4, 1.0, 50).tolist(), rel=1e-12)


def test_smoothing_is_a_running_mean_without_a_bias_at_the_start():
    """A constant stays; keep 0 changes nothing; the second value by hand."""
    assert smooth([2.0] * 10, 0.9) == pytest.approx([2.0] * 10)
    assert smooth([3.0, 1.0, 2.0], 0.0) == [3.0, 1.0, 2.0]
    assert smooth([3.0, 1.0], 0.8)[1] == pytest.approx((0.8 * 0.2 * 3 + 0.2 * 1) / (1 - 0.8**2))


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss():
    """On a curve whose minimum and steepest fall are known."""
    lrs = np.geomspace(1e-6, 10, 400)
    middle = np.log(lrs / 0.01)
    losses = 2 - 1 / (1 + np.exp(-3 * middle)) + np.maximum(0, np.log(lrs / 0.5))
    found = suggest(lrs.tolist(), losses.tolist())
    assert found["lowest"] == pytest.approx(0.5, rel=0.05)
    assert found["suggestion"] == pytest.approx(0.05, rel=0.06)
    assert found["suggestion_typed"] == f"optimizer.lr={found['suggestion']:.1e}"
    assert found["steepest"] == pytest.approx(0.01, rel=0.05)


def test_a_range_test_leaves_what_it_found_and_the_suggestion_trains(tmp_path, monkeypatch, capsys):
    """csv, picture, TensorBoard and result; it stops when the loss explodes; the rate it names reaches 0.9."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    assert main(WORDS) == 0
    (run,) = (tmp_path / "outputs" / "r").glob("task=*")
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done" and result["suggestion_typed"] in capsys.readouterr().out
    rows = [
        {k: float(v) for k, v in row.items()} for row in csv.DictReader((run / "range.csv").read_text().splitlines())
    ]
    assert result["steps"] == len(rows) < 200
    smoothed = [row["smoothed"] for row in rows]
    assert smoothed[-1] > EXPLODED * min(smoothed) and all(s <= EXPLODED * min(smoothed) for s in smoothed[:-1])
    assert [row["lr"] for row in rows] == pytest.approx(np.geomspace(1e-6, 10, 200)[: len(rows)].tolist())
    assert result["suggestion"] == pytest.approx(rows[int(np.argmin(smoothed))]["lr"] / 10, rel=0.05)
    assert rows[0]["loss"] == pytest.approx(math.log(10), rel=0.1)  # ten classes, nothing learnt yet
    assert (run / "range.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert "lr_range" in events.Tags()["images"] and "lr_range/loss" in events.Tags()["scalars"]
    assert main(["model=mlp", "optimizer=sgd", f"optimizer.lr={result['suggestion']}", "epochs=10", "name=t"]) == 0
    (trained,) = (tmp_path / "outputs" / "t").glob("*/result.json")
    assert json.loads(trained.read_text())["test_accuracy"] > 0.9


def test_the_same_seed_gives_the_same_sweep_and_the_optimizers_rate_does_not_matter(tmp_path, monkeypatch, capsys):
    """`optimizer.lr`, the schedule and the epochs are no part of its identity."""
    monkeypatch.chdir(tmp_path)
    words = [*WORDS[:-1], "log.tensorboard=false", "task.steps=30", "task.max=0.1"]
    assert main([*words, "name=r"]) == 0 and main([*words, "name=again"]) == 0
    first, second = (next((tmp_path / "outputs" / name).glob("task=*")) for name in ("r", "again"))
    assert (first / "range.csv").read_text() == (second / "range.csv").read_text()
    assert len((first / "range.csv").read_text().splitlines()) == 31  # nothing exploded: to the end
    capsys.readouterr()
    assert main(["-m", *words, "name=r", "optimizer.lr=0.1,0.5", "schedule=constant,cosine", "dry_run=true"]) == 0
    assert "0 to run, 1 done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["optimizer=lbfgs"], "optimizer.full_batch=true: task=lr_range sweeps the rate over mini-batches"),
        (["task.min=1", "task.max=0.1"], "task.max=0.1: must be above task.min=1"),
        (["task.steps=5"], "task.steps=5: must be at least 20"),
        (["task.smoothing=1"], "task.smoothing=1: must be below 1"),
        (["task.min=0"], "task.min=0: must be above 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    """Exit code 2, nothing made."""
    monkeypatch.chdir(tmp_path)
    assert main(["task=lr_range", "model=mlp", *words]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "outputs").exists()
