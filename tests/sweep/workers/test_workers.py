"""Runs of a sweep in worker processes: the same numbers, time limits, and what is lost."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext
from pebble import ProcessPool
from torch import nn

from runner.store import lock
from runner.sweep.run.executor import Executor, Outcome
from runner.sweep.workers import forkserver as server
from runner.sweep.workers import processes
from runner.sweep.workers.local import Local
from runner.sweep.workers.processes import Processes, packed
from tests.shared.results import numbers, results_of
from tests.shared.sweeps import CUSTOM, SWEEP, said


def weights(folder: Path) -> dict[str, bytes]:
    """Of each run, by its fingerprint."""
    found = {}
    for path in folder.glob("*/checkpoint.pt"):
        state = torch.load(path, weights_only=True)
        found[state["fingerprint"]] = b"".join(value.numpy().tobytes() for value in state["members"][0].values())
    return found


def test_the_server_loads_what_every_worker_would(monkeypatch):
    """The modules of the runner's own targets, beside what all runs need; nothing of a user's."""
    told: list[list[str]] = []
    monkeypatch.setattr(server.forkserver, "ensure_running", lambda: None)
    kind = type(server.multiprocessing.get_context("forkserver"))
    monkeypatch.setattr(kind, "set_forkserver_preload", lambda self, modules: told.append(modules))
    server.prepare(["runner.data.vision.fashion_mnist", "mine.Net", "None"])
    assert told == [["runner.sweep.workers.worker", "runner.report.preload", "runner.data.vision"]]


def test_a_report_is_written_without_a_worker(cli, monkeypatch):
    """Where none is left, or it is lost while it writes."""
    assert cli(*SWEEP, "name=here", "hydra.launcher.workers=0")[0] == 0
    page = Path("outputs/here/report.html")
    crew = Processes(HydraContext(None, Callbacks()), [None, None], None)
    for pool in (None, ProcessPool(1, context=multiprocessing.get_context("spawn"))):
        page.unlink()
        crew._pools[1] = pool
        with monkeypatch.context() as patch:
            patch.setattr(processes, "_report", _lost)
            assert crew.report(Path("outputs/here")) == page and page.exists()
    pool.stop()
    pool.join()


def _lost(folder: Path) -> None:
    os._exit(3)


def test_two_workers_give_what_this_process_gives(cli):
    """Every number and every weight, bit for bit; no lock is left; each worker told its own pid."""
    assert cli(*SWEEP, "name=here", "hydra.launcher.workers=0")[0] == 0
    code, out, _ = cli(*SWEEP, "name=there", "hydra.launcher.workers=2")
    assert code == 0 and "4 runs: 4 done" in out
    here, there = results_of(Path("outputs/here")), results_of(Path("outputs/there"))
    assert {name: numbers(r) for name, r in here.items()} == {name: numbers(r) for name, r in there.items()}
    assert weights(Path("outputs/here")) == weights(Path("outputs/there"))
    assert not list(Path("outputs").glob("*/*/lock.json"))


def test_a_run_that_takes_too_long_is_ended(cli):
    """The time limit ends that run alone; it is named; without the limit it is done."""
    words = (*CUSTOM, "-m", "+model.seconds=0,0.6", "epochs=2", "name=slow")
    code, out, _ = cli(*words, "hydra.launcher.timeout=6")  # a busy machine has a quick run take some
    found = {r["swept"]["model.seconds"]: r for r in results_of(Path("outputs/slow")).values()}
    assert code == 1 and found[0]["status"] == "done"
    assert found[0.6]["status"] == "failed"
    assert found[0.6]["reason"] == "took longer than hydra.launcher.timeout=6 seconds" and found[0.6]["reason"] in out


@pytest.mark.parametrize(
    "word, line",
    [
        ("workers=many", "hydra.launcher.workers=many: must be auto, or a whole number of at least 0"),
        ("workers=-1", "hydra.launcher.workers=-1: must be auto, or a whole number of at least 0"),
        ("runs_per_gpu=0", "hydra.launcher.runs_per_gpu=0: must be auto, or a whole number of at least 1"),
        ("timeout=0", "hydra.launcher.timeout=0: must be seconds above 0, or null"),
    ],
)
def test_launcher_values_that_cannot_be(cli, word, line):
    """One line, nothing begun."""
    code, _, err = cli(*SWEEP, f"hydra.launcher.{word}")
    assert code == 2 and line in err and len(err.splitlines()) == 1
    assert not Path("outputs").exists()


def test_evaluations_of_one_training_train_once_with_workers(cli):
    """The second waits for the first, though a worker is free."""
    assert cli("-m", "model=mlp", "epochs=2", "evaluation=standard,views", "hydra.launcher.workers=2", "name=e")[0] == 0
    found = {r["choices"]["evaluation"]: r for r in results_of(Path("outputs/e")).values()}
    assert [found[name]["trained_in"] is None for name in ("standard", "views")] == [True, False]


# -- locks ------------------------------------------------------------------------------------------------------------


def test_two_terminals_do_each_run_once(cli, tmp_path):
    """Two commands at once: both end well, each has all runs, none was begun twice."""
    words = ["-m", "model=mlp", "optimizer=sgd,adam", "seed=0,1,2", "epochs=15", "threads=1", "log.images=0"]
    both = [
        subprocess.Popen([sys.executable, "-m", "runner", *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("6 runs: 6 done" in text or "nothing was left to do" in text for text in told)
    folders = [path for path in Path("outputs/runs").iterdir() if (path / "result.json").exists()]
    assert len(folders) == 6
    for folder in folders:
        lines = (folder / "run.log").read_text().splitlines()
        assert sum("epoch=1 " in line for line in lines) == 1, "begun twice"
        assert len(list(folder.glob("events.out.*"))) == 1, "ended twice"
        assert not (folder / lock.FILE).exists()


@pytest.mark.parametrize("ends", [False, True])
def test_a_run_that_another_process_does_is_waited_for(cli, ends):
    """A run whose lock is held is waited for: when its holder is gone, it is done; if that had ended it, it is not."""
    assert cli(*SWEEP, "name=left")[0] == 0
    path = next(Path("outputs/left").glob("*/result.json"))
    whole = path.read_text()
    result = json.loads(whole)
    path.write_text(json.dumps(result | {"status": "running"}))
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(4)"])
    said(path.parent, pid=other.pid, started=lock.start_time(other.pid))

    def hold():
        time.sleep(3)
        if ends:
            path.write_text(whole)
        other.wait()

    began = time.monotonic()
    reaper = threading.Thread(target=hold)
    reaper.start()
    assert cli(*SWEEP, "name=left")[0] == 0
    reaper.join()
    assert time.monotonic() - began > 2, "it did not wait"
    again = json.loads(path.read_text())
    assert again["status"] == "done" and (again["started"] == result["started"]) == ends


# -- what an executor cannot do ------------------------------------------------------------------------------------


class Poor(Executor):
    """Two at once, whose runs are out of memory unless they are alone."""

    capacity, shares = 2, True

    def __init__(self, inner: Executor, tries: list):
        self.inner, self.tries, self._given = inner, tries, []

    def submit(self, work):
        self._given.append(work)

    def wait(self, seconds):
        given, self._given = self._given, []
        self.tries.append([work.job.swept["seed"] for work in given])
        if len(given) > 1:
            return [Outcome(work, lost="killed", memory=True) for work in given]
        for work in given:
            self.inner.submit(work)
        return self.inner.wait(seconds)


def test_what_lacks_memory_beside_others_is_tried_alone(cli, monkeypatch):
    """Both fail side by side; then each is done alone."""
    from runner.sweep.workers.local import Local

    tries, real = [], Local.make_executor
    monkeypatch.setattr(Local, "make_executor", lambda self, plan, display: Poor(real(self, plan, display), tries))
    words = ("-m", "model=mlp", "seed=0,1", "epochs=1", "log.images=0", "hydra.launcher.workers=0")
    assert cli(*words)[0] == 0
    assert tries == [[0, 1], [0], [1]]
    assert {r["status"] for r in results_of(Path("outputs/runs")).values()} == {"done"}


class Full(nn.Sequential):
    """A network in whose second run the disk is full."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(list(Path("outputs/full").glob("*/checkpoint.pt"))) and not Path("room").exists():
            raise OSError(28, "No space left on device")
        return super().forward(x)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_stops_the_sweep_which_then_goes_on(cli, workers):
    """One line that says what is missing, exit code 1, nothing marked as failed; with room the rest is done."""
    words = (
        "model=custom",
        "model._target_=tests.sweep.workers.test_workers.Full",
        "trust=[tests]",
        "-m",
        "seed=0,1,2",
        "epochs=1",
    )
    words += ("name=full", "log.images=0", f"hydra.launcher.workers={workers}")
    code, _, err = cli(*words)
    line = next(line for line in err.splitlines() if line.startswith("runner: "))
    assert code == 1 and "No space left on device" in line
    assert "the rest (2 runs) takes about" in line and "the same command goes on" in line
    assert sorted(r["status"] for r in results_of(Path("outputs/full")).values()) == ["done", "running"]
    Path("room").touch()
    assert cli(*words)[0] == 0
    assert [r["status"] for r in results_of(Path("outputs/full")).values()] == ["done"] * 3


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "0"]), ("2,3", ["2", "3", "2"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b", "GPU-a"])],
)
def test_workers_get_the_gpus_of_the_command(visible, expected, monkeypatch):
    """Worker GPUs are a part of what `CUDA_VISIBLE_DEVICES` allows this process."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    made = []
    monkeypatch.setattr(processes, "Processes", lambda context, devices, limit, grow: made.append(devices))
    plan = SimpleNamespace(workers=3, device="cuda")
    Local(None, "auto", "auto", None).make_executor(plan, None)
    assert made == [expected]


def test_a_gpu_is_shared_by_as_many_as_it_holds():
    """80 GiB of memory; a run of 1,000 MiB and the 600 of its process; never less than one, never more than cores."""
    assert packed(81920, 1000, 64) == int(0.9 * 81920 / 1600)
    assert packed(81920, 1000, 4) == 4
    assert packed(81920, 100_000, 64) == 1
