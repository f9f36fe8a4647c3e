"""Ends of commands: divergence, failures, kills, interrupts, and the process's exit."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.shared.commands import QUICK
from tests.shared.results import metrics, numbers, result_of, results_of


def points(folder: Path) -> dict[str, list]:
    """Every scalar that TensorBoard shows of a run, but probes of two steps between which a run may have resumed."""
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "update_cosine"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def test_diverged_is_a_result_and_failed_is_tried_again(cli, tmp_path, monkeypatch):
    """One run diverges, one fails: the others finish, exit 1, both named; again, only the failed one runs."""
    (tmp_path / "breaking.py").write_text(
        "import pathlib, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, in_channels: int, num_classes: int, image_size: int, fails: bool = False):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(in_channels * image_size**2, num_classes)\n"
        "        self.fails, self.calls = fails, 0\n"
        "    def forward(self, x):\n"
        "        self.calls += self.training\n"
        "        if self.fails and self.calls > 25 and pathlib.Path('break').exists():\n"
        "            raise OSError('the disk is gone')\n"
        "        return self.layer(x.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "break").touch()
    words = ("-m", "model=custom", "model._target_=breaking.Net", "trust=[breaking]", "+model.fails=false,true")
    words += ("optimizer.lr=1e-3,1e38", "epochs=3", "optimizer=sgd", "name=mixed", "log.images=0")
    code, out, _ = cli(*words)
    assert code == 1
    found = {
        (r["swept"]["model.fails"], r["swept"]["optimizer.lr"]): r for r in results_of(Path("outputs/mixed")).values()
    }
    assert [found[key]["status"] for key in ((False, 1e-3), (True, 1e-3), (False, 1e38))] == [
        "done",
        "failed",
        "diverged",
    ]
    assert "the disk is gone" in out and found[True, 1e-3]["reason"] == "OSError: the disk is gone"
    assert found[False, 1e38]["diverged_step"] is not None and "last good values" in found[False, 1e38]["reason"]
    report = Path("outputs/mixed/report.html").read_text()
    assert "the disk is gone" in report and "the loss was" in report
    (tmp_path / "break").unlink()
    started = {key: r["started"] for key, r in found.items()}
    time.sleep(1.1)
    code, out, _ = cli(*words)
    again = {
        (r["swept"]["model.fails"], r["swept"]["optimizer.lr"]): r for r in results_of(Path("outputs/mixed")).values()
    }
    assert again[True, 1e-3]["status"] == "done" and code == 1  # the diverged one stays a result
    assert {key for key in again if again[key]["started"] != started[key]} == {(True, 1e-3)}


@pytest.mark.parametrize(("seconds", "fuse"), [(0, "true"), pytest.param(1000, "false", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_numbers(cli, tmp_path, seconds, fuse):
    """kill -9 in the middle, then the same command: bit for bit the undisturbed result; no finished run repeated."""
    words = ["-m", "model=mlp", "seed=0,1", "epochs=40", "optimizer=adam", "regularization=[dropout,label_smoothing]"]
    words += ["augmentation=[flip,crop]", "schedule=cosine", "log.images=0", f"checkpoint.seconds={seconds}"]
    words += ["hydra.launcher.workers=1", f"hydra.launcher.fuse={fuse}"]
    assert cli(*words, "name=whole")[0] == 0
    whole = {r["fingerprint"]: r for r in results_of(Path("outputs/whole")).values()}
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *words, "name=cut"], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    cut = Path("outputs/cut")
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        second = list(cut.glob("*seed=1*/metrics.csv"))
        if second and len(second[0].read_text().splitlines()) > 5:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {r["fingerprint"]: r for r in results_of(cut).values()}
    first = "running" if fuse == "true" else "done"
    assert sorted(r["status"] for r in before.values()) == [first, "running"], "killed too early or too late"
    assert cli(*words, "name=cut")[0] == 0
    after = {r["fingerprint"]: r for r in results_of(cut).values()}
    assert {f: numbers(r) for f, r in after.items()} == {f: numbers(r) for f, r in whole.items()}
    for fingerprint, result in before.items():
        if result["status"] == "done":
            assert after[fingerprint] == result
    folders = {
        name: {r["fingerprint"]: Path("outputs") / name / r["run"] for r in rs.values()}
        for name, rs in (("cut", after), ("whole", whole))
    }
    for fingerprint, folder in folders["cut"].items():
        assert metrics(folder) == metrics(folders["whole"][fingerprint])
        assert points(folder) == points(folders["whole"][fingerprint])


def test_a_damaged_result_or_checkpoint_costs_that_run_alone(cli, caplog):
    """A half-written file is named and its run is done again; others stay."""
    words = ("-m", *QUICK, "seed=0,1,2", "name=hurt")
    cli(*words)
    whole = results_of(Path("outputs/hurt"))
    first, second, _ = sorted(whole)
    path = Path("outputs/hurt") / first
    (path / "result.json").write_text(json.dumps(whole[first])[:100])
    (path / "checkpoint.pt").write_bytes((path / "checkpoint.pt").read_bytes()[:5000])
    assert cli(*words)[0] == 0 and first in caplog.text and "damaged" in caplog.text
    again = results_of(Path("outputs/hurt"))
    assert {name: numbers(r) for name, r in again.items()} == {name: numbers(r) for name, r in whole.items()}
    assert again[second] == whole[second]


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    """An interrupt ends with a line and exit code 130; the finished run stays."""
    words = ["-m", "model=mlp", "seed=0,1", "epochs=300", "log.images=0", "name=stop", "hydra.launcher.workers=1"]
    words += ["hydra.launcher.fuse=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where a shell has put the tests into the background, it has them ignore the signal.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not list((tmp_path / "outputs/stop").glob("*seed=1*/metrics.csv")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert sorted(r["status"] for r in results_of(tmp_path / "outputs/stop").values()) == ["done", "running"]


def test_a_loss_that_ends_as_no_number_is_a_divergence(cli):
    """Without validation the test split is the first to see it: a result, and no crash."""
    words = ("epochs=1", "data.val_fraction=0", "optimizer=sgd", "optimizer.full_batch=true", "optimizer.lr=1e38")
    code, _, err = cli(*words, "model=mlp", "log.tensorboard=false", "threads=1")
    result = result_of(Path("outputs/runs"))
    assert code == 1 and result["status"] == "diverged" and "Traceback" not in err


ENDS = """
import sys
from pathlib import Path
from torch import nn
log = open("left_open.txt", "w")
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        log.write("eleven bytes")
"""


def test_what_a_users_class_leaves_open_is_written(tmp_path):
    """A command ends at once, but not where files of others may be open."""
    (tmp_path / "mine.py").write_text(ENDS)
    words = ("model=custom", "model._target_=mine.Net", "trust=[mine]", "epochs=1", "data.limit=200")
    done = subprocess.run([sys.executable, "-m", "runner", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "eleven bytes" in (tmp_path / "left_open.txt").read_text()


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_matter(tmp_path, closed):
    """Of a command that nobody listens to."""
    line = f"exec {sys.executable} -m runner nonsense=1 {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "Exception" not in done.stderr


def test_an_interrupt_while_hydra_is_loaded(tmp_path):
    """One line, and the code of an interrupt, as at any other moment."""
    script = "import runner.__main__ as m\ndef main(): raise KeyboardInterrupt\nm.main = main\nm.cli()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "runner: interrupted; the same command goes on where it stopped\n"
