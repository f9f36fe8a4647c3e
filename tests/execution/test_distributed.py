"""One run in several processes, started by torchrun as a user starts it (gloo, on the CPU)."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from runner.execution import distributed
from runner.execution.distributed import LeaderEnded, Team
from runner.store import lock
from tests.shared.paths import ROOT
from tests.shared.results import result_of

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "runner")
SMALL = ("data.limit=300", "batch_size=30", "epochs=2", "threads=1", "log.images=0", "log.tensorboard=false")


def torchrun(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Two processes of the runner, in the folder of the test."""
    source = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, *words], env=os.environ | source | environment, capture_output=True, text=True, check=False
    )


def history(name: str) -> list[dict[str, float]]:
    (path,) = Path("outputs", name).glob("*/metrics.csv")
    with path.open() as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


STACKED = (
    *("regularization=[l2,mixup]", "augmentation=[crop]", "optimizer=sam", "accumulate=2", "clip_grad_norm=0.5"),
    *("ensemble=ema", "schedule=plateau"),
)


def test_two_processes_train_as_one(cli):
    """The same images and the same batch, in parts: the same losses as of one process, but for rounding."""
    assert cli(*SMALL, *STACKED, "name=lone")[0] == 0
    done = torchrun(*SMALL, *STACKED, "name=two")
    assert done.returncode == 0, done.stderr
    assert len(history("lone")) == 2
    for lone, two in zip(history("lone"), history("two"), strict=True):
        assert two == pytest.approx(lone, rel=1e-5, abs=1e-6)
    lone, two = result_of(Path("outputs/lone")), result_of(Path("outputs/two"))
    assert two["processes"] == 2 and lone["processes"] == 1
    assert two["fingerprint"] == lone["fingerprint"]
    assert two["test_loss"] == pytest.approx(lone["test_loss"], rel=1e-5)
    assert done.stdout.count("test accuracy") == 1  # one of them speaks
    (log,) = Path("outputs/two").glob("*/run.log")
    assert "2 processes train together, each on 15 images of every batch of 30" in log.read_text()


BREAKING = """
import os, pathlib, torch
class Net(torch.nn.Module):
    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__()
        self.body = torch.nn.Linear(in_channels * image_size**2, 16)
        self.norm, self.noise = torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(16, num_classes)
        self.calls = 0
    def forward(self, x):
        self.calls += self.training
        if self.calls > 15 and pathlib.Path("break").exists() and os.environ.get("RANK") == "1":
            raise OSError("the cable is out")
        return self.head(self.noise(self.norm(self.body(x.flatten(1)))))
"""


def test_where_one_process_fails_the_run_fails_and_goes_on_from_its_checkpoint(cli):
    """The reason names the process, all end, and the same command goes on from the checkpoint."""
    Path("breaking.py").write_text(BREAKING)
    Path("break").touch()
    words = (*SMALL, "model=custom", "model._target_=breaking.Net", "trust=[breaking]", "checkpoint.seconds=0")
    failed = torchrun(*words, "name=two")
    assert failed.returncode != 0
    result = result_of(Path("outputs/two"))
    assert (result["status"], result["reason"]) == ("failed", "process 1: OSError: the cable is out")
    Path("break").unlink()
    again = torchrun(*words, "name=two")
    assert again.returncode == 0, again.stderr
    (log,) = Path("outputs/two").glob("*/run.log")
    assert "goes on after step 9 of 18" in log.read_text()
    assert "batch norm: each process normalizes its own 15 images" in log.read_text()
    assert result_of(Path("outputs/two"))["status"] == "done" and len(history("two")) == 2


@pytest.mark.slow
def test_a_signal_to_any_process_saves_the_run(cli):
    """The second one tells the first, which saves at its next line of metrics; the same command goes on there, to the
    same numbers as undisturbed."""
    words = (*SMALL[:2], "epochs=160", *SMALL[3:], "model=mlp", "log.every=5", "checkpoint.seconds=1000")
    assert torchrun(*words, "name=whole").returncode == 0
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*TORCHRUN, *words, "name=cut"], env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not _steps(Path("outputs/cut")) and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
    ranks["1"].terminate()
    _, err = process.communicate(timeout=60)
    stopped = result_of(Path("outputs/cut"))["stopped"]
    assert process.returncode != 0 and f"interrupted; resumes at step {stopped['step']} of 1440" in err
    assert stopped["step"] % 9 == 0 or stopped["step"] % 9 == 5
    assert torchrun(*words, "name=cut").returncode == 0
    assert history("cut") == history("whole")


def _steps(folder: Path) -> int:
    """Steps of the run in a folder, as its lock has them."""
    return max([(lock.read(path.parent) or {}).get("step", 0) for path in folder.glob("*/lock.json")], default=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-m", "seed=0,1"), "torchrun trains one run on several devices: leave -m out"),
        (("hydra.launcher.workers=1",), "leave hydra/launcher and its keys out"),
        (("task=surface",), "several processes can do task=train alone"),
        (("optimizer=lbfgs", "model=mlp"), "compares losses of a step cannot be shared out"),
        (("optimizer=lbfgs", "optimizer.full_batch=false", "model=mlp"), "cannot be shared out"),
        (("ensemble=independent",), "its members are runs of their own"),
        (("transfer=last_layer", "transfer.cache=true"), "several processes keep no features"),
        (("batch_size=3", "accumulate=2"), "fewer images than 2 processes times accumulate=2"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_in_a_line(words, said, cli, monkeypatch):
    """Sweeps, tasks and methods that one process must do alone are refused before anything is made, the others sent
    home."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(distributed, "team", lambda: Team(store, 0, 2, 0))
    code, _, err = cli(*words)
    assert code == 2 and said in err and err.startswith("runner: torchrun") and err.count("\n") == 1
    assert not Path("outputs").exists()
    with pytest.raises(LeaderEnded):
        Team(store, 1, 2, 1).receive()
