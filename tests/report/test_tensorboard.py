"""The mean over seeds in TensorBoard, asked of TensorBoard itself over HTTP."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

with warnings.catch_warnings():  # tensorboard's vendored bleach warns about itself
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from runner.report import runs_of, write_report
from runner.report.tensorboard import write_aggregates
from runner.tracking.events import Tracker

METRICS = ["val/accuracy", "val/loss", "train/accuracy", "train/loss"]
STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


def write_run(sweep: Path, swept: dict, values: list[float], status: str = "done", tensorboard: bool = True) -> Path:
    """A run's folder as a sweep leaves it; `values` are its validation accuracies, ten steps apart."""
    folder = sweep / (",".join(f"{key}={value}" for key, value in swept.items()) + "-0123456789")
    folder.mkdir(parents=True)
    folder.joinpath("result.json").write_text(
        json.dumps({"status": status, "swept": swept, "val_accuracy": values[-1]})
    )
    rows = "".join(f"{i},{10 * i},{value},{2 * value}\n" for i, value in enumerate(values, 1))
    folder.joinpath("metrics.csv").write_text("epoch,step,val_accuracy,val_loss\n" + rows)
    if tensorboard:
        tracker = Tracker(folder)
        tracker.hparams(swept)
        tracker.scalars(10, {"val/accuracy": values[-1]})
        tracker.close(status)
    return folder


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (step, value) as TensorBoard reads them."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


class Server:
    """A TensorBoard as a user starts it."""

    def __init__(self, logdir: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in self.process.stderr:
            if found := re.search(r"at (http://\S+?)/? ", line):
                self.url = found[1]
                return
        raise AssertionError("TensorBoard did not start")

    def get(self, path: str, **query: str):
        with urllib.request.urlopen(f"{self.url}/data/{path}?{urlencode(query)}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict):
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/data/{path}", json.dumps(body).encode(), kind)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def wait_for(self, runs: int) -> list[str]:
        """The names of the runs, when all are read."""
        end = time.monotonic() + 30
        while len(found := self.get("runs")) < runs and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(0.5)  # the last run's values
        return found

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def test_a_sweep_in_tensorboard(cli, tmp_path):
    """Two sweeps under one log folder: a row a run, the columns of both, and mean and band of each combination."""
    common = (
        "hydra.launcher.workers=0",
        "threads=1",
        "model=mlp",
        "model.hidden=[8]",
        "log.images=0",
        "data.limit=200",
    )
    assert cli("-m", "name=first", "optimizer=sgd,adam", "seed=0,1,2", "epochs=2", *common)[0] == 0
    assert cli("-m", "name=second", "batch_size=32,64", "seed=0,1", "epochs=1", *common)[0] == 0
    outputs = tmp_path / "outputs"
    server = Server(outputs)
    try:
        runs = server.wait_for(14)
        aggregates = sorted(run for run in runs if "/mean/" in run)
        assert len(runs) == 14 and [run.split("/mean/")[1] for run in aggregates] == [
            *("optimizer=adam", "optimizer=sgd"),
            *("batch_size=32", "batch_size=64"),
        ]
        columns = server.post("plugin/hparams/experiment", {})
        assert {"optimizer", "batch_size", "seed", "status"} <= {info["name"] for info in columns["hparamInfos"]}
        rows = server.post(
            "plugin/hparams/session_groups", {"allowedStatuses": STATUSES, "startIndex": 0, "sliceSize": 100}
        )["sessionGroups"]
        assert sorted(row["name"] for row in rows) == sorted(set(runs) - set(aggregates))
        (category,) = server.get("plugin/custom_scalars/layout")["category"]
        charts = {chart["title"]: chart["margin"]["series"][0] for chart in category["chart"]}
        assert sorted(charts) == sorted(METRICS)
        for column, tag in (("val_accuracy", "val/accuracy"), ("train_loss", "train/loss")):
            seeds = []
            for file in outputs.glob("first/optimizer=adam*/metrics.csv"):
                seeds.append(
                    [(float(row["step"]), float(row[column])) for row in csv.DictReader(file.read_text().splitlines())]
                )
            steps, values = np.array(seeds)[0, :, 0], np.array(seeds)[:, :, 1]
            assert values.shape == (3, 2)
            mean, deviation = values.mean(0), values.std(0, ddof=1)
            for key, expected in (("value", mean), ("lower", mean - deviation), ("upper", mean + deviation)):
                name = charts[tag][key]
                answer = server.get("plugin/custom_scalars/scalars", run=aggregates[0], tag=f"^{name}$")
                shown = np.array(answer["tag_to_events"][name])
                np.testing.assert_array_equal(shown[:, 1], steps)
                np.testing.assert_allclose(shown[:, 2], expected, rtol=1e-6)
    finally:
        server.stop()


def test_the_report_writes_them_again(tmp_path):
    """`write_report` leaves the aggregates; a second time there is one file, and every step once."""
    for seed, values in enumerate(([0.1, 0.2], [0.3, 0.6])):
        write_run(tmp_path / "s", {"optimizer": "adam", "seed": seed}, values)
    for _ in range(2):
        write_report(tmp_path / "s")
        (file,) = (tmp_path / "s" / "mean" / "optimizer=adam").glob("*")
        assert scalars(file.parent)["val/accuracy"] == [(10, pytest.approx(0.2)), (20, pytest.approx(0.4))]


def test_an_open_tensorboard_reads_no_step_twice(tmp_path):
    """What is written again replaces what an open TensorBoard had read already."""
    for seed in (0, 1):
        write_run(tmp_path, {"seed": seed}, [0.1, 0.2])
    (folder,) = write_aggregates(tmp_path, runs_of(tmp_path))
    accumulator = EventAccumulator(str(folder))
    for seed, value, mean in ((2, 0.4, 0.2), (3, 0.6, 0.3), (4, 0.8, 0.4)):
        accumulator.Reload()
        write_run(tmp_path, {"seed": seed}, [value, 1.0])
        write_aggregates(tmp_path, runs_of(tmp_path))
        accumulator.Reload()
        events = accumulator.Scalars("val/accuracy")
        assert [event.step for event in events] == [10, 20]
        assert events[0].value == pytest.approx(mean)
    assert len(list(folder.iterdir())) == 2  # the files that came before the last two are gone


def test_only_seeds_that_are_done_count(tmp_path):
    """One seed, unfinished seeds and runs without TensorBoard make no aggregate, nor any folder.

    The mean of a combination whose bad seed diverged says so in its name: what is left may be its luckiest.
    """
    write_run(tmp_path, {"lr": 0.1, "seed": 0}, [0.1])
    write_run(tmp_path, {"lr": 0.1, "seed": 1}, [0.3], status="diverged")
    for seed in (0, 1):
        write_run(tmp_path, {"lr": 0.2, "seed": seed}, [0.1], tensorboard=False)
    assert write_aggregates(tmp_path, runs_of(tmp_path)) == []
    assert not (tmp_path / "mean").exists()
    write_run(tmp_path, {"lr": 0.1, "seed": 2}, [0.5])
    (folder,) = write_aggregates(tmp_path, runs_of(tmp_path))
    assert folder == tmp_path / "mean" / "lr=0.1,1_of_3_seeds_diverged"
    assert scalars(folder)["val/accuracy"] == [(10, pytest.approx(0.3))]
    assert scalars(folder)["variation/high/val/accuracy"] == [(10, pytest.approx(0.3 + 0.08**0.5))]


def test_the_mean_ends_where_the_first_seed_ends(tmp_path):
    """A seed that stopped early does not make the mean jump to that of the others."""
    write_run(tmp_path, {"seed": 0}, [0.1, 0.2, 0.9])
    write_run(tmp_path, {"seed": 1}, [0.3, 0.4])
    (folder,) = write_aggregates(tmp_path, runs_of(tmp_path))
    assert [step for step, _ in scalars(folder)["val/loss"]] == [10, 20]


def test_aggregates_that_no_longer_are_go_away(tmp_path):
    """A combination that has lost a seed has no mean any more; what a user put beside it stays."""
    for rate in (0.1, 0.2):
        folders = [write_run(tmp_path, {"lr": rate, "seed": seed}, [0.1]) for seed in (0, 1)]
    assert len(write_aggregates(tmp_path, runs_of(tmp_path))) == 2
    (tmp_path / "mean" / "mine").mkdir()
    (tmp_path / "mean" / "mine" / "notes.txt").touch()
    shutil.rmtree(folders[0])
    write_aggregates(tmp_path, runs_of(tmp_path))
    assert {path.name for path in (tmp_path / "mean").iterdir() if path.is_dir()} == {"lr=0.1", "mine"}


def test_long_names_are_told_apart(tmp_path):
    """Combinations whose names are cut to the same words have folders of their own."""
    for value in ("a", "b"):
        for seed in (0, 1):
            folder = write_run(tmp_path, {"key": value, "seed": seed}, [0.1])
            result = json.loads((folder / "result.json").read_text())
            result["swept"]["key"] = "x" * 120 + value
            (folder / "result.json").write_text(json.dumps(result))
    folders = write_aggregates(tmp_path, runs_of(tmp_path))
    assert len({folder.name for folder in folders}) == 2
    assert all(len(folder.name.encode()) < 120 for folder in folders)


def test_import_is_light():
    """Neither torch nor tensorflow nor matplotlib is loaded."""
    code = "import sys, runner.report.tensorboard; assert not {'torch', 'tensorflow', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bands_of_accuracies_stay_between_zero_and_one(tmp_path):
    """A mean near one with a wide spread: the upper end of the band is one; a loss has no such bound."""
    for seed, value in enumerate((0.9, 1.0, 1.0)):
        write_run(tmp_path, {"lr": 0.1, "seed": seed}, [value, value])
    (folder,) = write_aggregates(tmp_path, runs_of(tmp_path))
    tags = scalars(folder)
    assert [value for _, value in tags["variation/high/val/accuracy"]] == [1.0, 1.0]
    assert max(value for _, value in tags["variation/high/val/loss"]) > 2.0
