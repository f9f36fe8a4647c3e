"""A sweep's runs in worker processes: the same numbers, locks, time limits, what is lost and what is plan_file."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext
from pebble import ProcessPool
from torch import nn

from runner.core.listener import Listener
from runner.store import lock
from runner.sweep import __main__ as command
from runner.sweep.plan import plan_file
from runner.sweep.run.executor import Executor, Outcome
from runner.sweep.workers import forkserver as server
from runner.sweep.workers import processes
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


def test_one_holds_a_lock(tmp_path):
    """Of many at once exactly one gets it; then the next may."""
    held, start = [], threading.Barrier(8)

    def ask() -> None:
        mine = lock.Lock(tmp_path / "run")
        start.wait()
        with mine as got:
            held.append(got is not None)
            start.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held) == 1
    with lock.Lock(tmp_path / "run") as got:
        assert got is not None
    assert lock.holder(tmp_path / "run") is None


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    """A pid that is gone, or that another process has by now; on this host alone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = tmp_path / "run"
    said(run)
    assert lock.holder(run) is not None
    for changes in ({"pid": gone.pid}, {"started": 1.0}):
        said(run, **changes)
        assert lock.holder(run) is None
        with lock.Lock(run) as got:
            assert got is not None
    (run / lock.FILE).write_text('{"host": ')  # half-written
    assert lock.holder(run) is None


def test_another_hosts_lock_is_a_lease(tmp_path, monkeypatch):
    """As long as its heart beats it is held, whatever its pid; a minute without a beat, and it is taken over."""
    run = tmp_path / "run"
    said(run, host="elsewhere", pid=1, started=1.0)
    assert lock.holder(run) is not None
    past = time.time() - lock.LEASE - 5
    os.utime(run / lock.FILE, (past, past))
    assert lock.holder(run) is None
    monkeypatch.setattr(lock, "LEASE", 1000.0)
    assert lock.holder(run) is not None
    assert [path.name for path in run.iterdir()] == [lock.FILE], "the probe of the clock was left"


def test_a_lock_tells_how_far_the_run_is(tmp_path, monkeypatch):
    """The file has step and numbers, and its beat makes it new; who listens hears it too."""
    monkeypatch.setattr(lock, "BEAT", 0.02)
    heard = []

    class Ear(Listener):
        def progress(self, step, steps, numbers):
            heard.append((step, steps))

    with lock.Lock(tmp_path, Ear()) as held:
        held.progress(3, 10, {"epoch": 1, "val_loss": float("nan"), "val_accuracy": 0.5})
        deadline = time.monotonic() + 10
        while "step" not in lock.read(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        now = lock.read(tmp_path)
    assert heard == [(3, 10)]
    assert (now["step"], now["steps"], now["numbers"]) == (3, 10, {"epoch": 1, "val_accuracy": 0.5})


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


def test_a_gpu_is_shared_by_as_many_as_it_holds():
    """80 GiB of memory; a run of 1,000 MiB and the 600 of its process; never less than one, never more than cores."""
    assert packed(81920, 1000, 64) == int(0.9 * 81920 / 1600)
    assert packed(81920, 1000, 4) == 4
    assert packed(81920, 100_000, 64) == 1


# -- what is frozen -------------------------------------------------------------------------------------------------


def test_editing_a_yaml_while_a_sweep_runs_changes_nothing_in_it(cli):
    """The plan was made before the first step: later runs have the file's old content."""
    folder = Path("conf/optimizer")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.05\n")
    words = ("--config-dir", "conf", *CUSTOM, "-m", "+model.edits=true", "seed=0,1", "epochs=1", "optimizer=mine")
    for workers in (0, 1):
        (folder / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.05\n")
        assert cli(*words, f"name=w{workers}", f"hydra.launcher.workers={workers}")[0] == 0
        assert "nothing.of.the.kind" in (folder / "mine.yaml").read_text()
        assert [r["status"] for r in results_of(Path(f"outputs/w{workers}")).values()] == ["done"] * 2


def test_the_plan_says_what_every_run_is(cli):
    """plan.json: the first run's config and what the others change, of each command; the same command stands once."""
    for _ in range(2):
        assert cli(*SWEEP, "name=p")[0] == 0
    assert cli("-m", "model=mlp", "seed=0,1", "epochs=1", "name=p")[0] == 0
    first, second = json.loads(Path("outputs/p/plan.json").read_text())["plans"]
    found = results_of(Path("outputs/p"))
    assert {run["run"] for plan in (first, second) for run in plan["runs"]} == set(found)
    for run in first["runs"]:
        config = plan_file.flat(first["config"]) | run["changes"]
        assert config["seed"] == run["swept"]["seed"] and found[run["run"]]["fingerprint"] == run["fingerprint"]
        target = {"sgd": "torch.optim.SGD", "adam": "runner.optimizer.adam.Adam"}[run["swept"]["optimizer"]]
        assert config["optimizer._target_"] == target
    assert second["config"]["epochs"] == 1


def test_a_resumed_run_keeps_its_threads(cli):
    """However many workers the second command has: threads change the last digits. As many as are typed it has."""
    words = ("-m", "model=convnet", "seed=0,1", "epochs=1", "batch_size=512", "log.images=0", "name=t")
    assert cli(*words, "hydra.launcher.workers=2")[0] == 0
    plan = Path("outputs/t/plan.json")
    content = json.loads(plan.read_text())
    for run in content["plans"][0]["runs"]:
        run["threads"] = 3
    plan.write_text(json.dumps(content))
    for more, expected in (((), 3), (("threads=1",), 1)):
        for path in Path("outputs/t").glob("*/result.json"):
            path.unlink()
        assert cli(*words, "hydra.launcher.workers=0", *more)[0] == 0
        assert {r["threads"] for r in results_of(Path("outputs/t")).values()} == {expected}


def test_a_plan_of_another_program_is_left_alone(cli):
    """One line; its file stays as it was."""
    folder = Path("outputs/foreign")
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text('{"trip": "to the sea"}')
    code, _, err = cli(*SWEEP, "name=foreign")
    assert code == 2 and "plan.json: no plan of the runner" in err and len(err.splitlines()) == 1
    assert (folder / "plan.json").read_text() == '{"trip": "to the sea"}' and len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "name, content",
    [("report.html", "<title>Holidays</title>"), ("results.csv", "km,h\n"), ("plan.json", "to the sea")],
)
def test_files_of_another_program_are_not_replaced(cli, name, content):
    """A folder that holds what we would write over is refused in one line, and stays as it was."""
    folder = Path("outputs/foreign")
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    code, _, err = cli(*SWEEP, "name=foreign")
    assert code == 2 and name in err and "choose another folder" in err and len(err.splitlines()) == 1
    assert (folder / name).read_text() == content and len(list(folder.iterdir())) == 1


def test_a_result_with_a_word_for_a_number_is_done_again(cli, caplog):
    """It is named as damaged, by sweep and status alike."""
    words = ("-m", "model=mlp", "seed=0,1", "epochs=1", "log.images=0", "name=w", "hydra.launcher.workers=0")
    assert cli(*words)[0] == 0
    path = next(Path("outputs/w").glob("*/result.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val_accuracy": "high"}))
    assert command.main(["status", "outputs/w"]) == 0
    assert cli(*words)[0] == 0 and "val_accuracy is no number" in caplog.text
    assert json.loads(path.read_text())["val_accuracy"] > 0


def test_two_plans_share_a_folder(cli):
    """Another sweep under the same name: the folder is a ledger, what both want is done once."""
    assert cli(*SWEEP, "name=both")[0] == 0
    first = results_of(Path("outputs/both"))
    code, out, _ = cli(*(word.replace("seed=0,1", "seed=1,2") for word in SWEEP), "name=both")
    assert code == 0 and "2 of 4 runs done already" in out
    second = results_of(Path("outputs/both"))
    assert len(second) == 6 and all(second[name] == result for name, result in first.items())


# -- status ---------------------------------------------------------------------------------------------------------


def test_status_tells_where_a_sweep_stands(cli, capfd):
    """Done, running with its progress, interrupted, failed with its reason, not started; a folder without runs: 2."""
    assert cli(*SWEEP, "name=s")[0] == 0
    folders = sorted(path.parent for path in Path("outputs/s").glob("*/result.json"))
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    for number, change in ((1, {"status": "running"}), (2, {"status": "failed", "reason": "the cable is out"})):
        (folders[number] / "result.json").write_text(json.dumps(results[number] | change))
    (folders[3] / "result.json").unlink()
    assert command.main(["status", "outputs/s"]) == 0
    out = capfd.readouterr().out
    assert "4 runs in outputs/s: 1 done, 1 interrupted, 1 failed, 1 not started" in out and "the cable is out" in out
    said(folders[1], step=3, steps=40, numbers={"val_accuracy": 0.5})
    assert command.main(["status", "outputs/s"]) == 0
    out = capfd.readouterr().out
    assert "1 running" in out and "step 3 of 40, val accuracy 0.5000, process" in out
    assert command.main(["status", "outputs/nowhere"]) == 2
    assert "no such folder" in capfd.readouterr().err


def test_status_loads_no_torch(tmp_path):
    """It answers at once."""
    code = "import sys, runner.sweep.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
