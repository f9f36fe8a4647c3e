"""Signals that end a command: what was trained is saved at that very step, and the same command goes on as if nothing
had happened."""

import contextlib
import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

import runner.sweep.run.launch
import runner.task.session
from runner.core import interruption
from runner.data.splits import ResidentSplit
from runner.store import checkpoint, lock
from runner.sweep import __main__ as command
from runner.train.state import TrainState
from tests.shared.paths import ROOT
from tests.shared.results import results_of

SMALL = ("model=mlp", "data.limit=300", "batch_size=32", "epochs=3", "threads=1", "log.images=0", "log.every=4")
CHANGING = ("run", "command", "overrides", "started", "seconds", "peak_memory_mb")


def at_call(count: int, number: int, function: Callable) -> Callable:
    """The function, whose call of that number also sends this process a signal."""
    calls: list[int] = []

    def called(*given, **named):
        calls.append(number)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return function(*given, **named)

    return called


def left(folder: Path) -> dict[str, tuple]:
    """By fingerprint: a run's result, its rows of metrics.csv, its scalars in TensorBoard, its weights."""
    found = {}
    for run, result in results_of(folder).items():
        path = folder / run
        rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
        state = checkpoint.load(path / "checkpoint.pt")
        found[result["fingerprint"]] = (
            {key: value for key, value in result.items() if key not in CHANGING},
            [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
            scalars(path),
            {f"{i} {name}": value.tolist() for i, one in enumerate(state["members"]) for name, value in one.items()},
        )
    return found


def scalars(folder: Path) -> dict[tuple[str, int], list[float]]:
    """By tag and step, every value that stands in the event files."""
    found: dict[tuple[str, int], list[float]] = {}
    for path in sorted(folder.glob("events.out.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tensor_util.make_ndarray(value.tensor))
                    found.setdefault((value.tag, event.step), []).append(number)
    return found


@pytest.fixture
def interrupted(cli, monkeypatch):
    """`interrupted(words, count, number)`: the command with a signal in a step, then again; as if undisturbed."""

    def run(words: tuple[str, ...], count: int, number: int = signal.SIGINT) -> tuple[str, str]:
        assert cli(*words, "name=whole")[0] == 0
        with monkeypatch.context() as patch:
            patch.setattr(TrainState, "after_update", at_call(count, number, TrainState.after_update))
            code, out, err = cli(*words, "name=cut")
        assert code == 128 + number and "Traceback" not in err + out
        assert not list(Path("outputs/cut").glob("*/.*.??????*")), "a file was left half written"
        assert cli(*words, "name=cut")[0] == 0
        whole, cut = left(Path("outputs/whole")), left(Path("outputs/cut"))
        assert whole.keys() == cut.keys()
        for fingerprint, parts in whole.items():
            for mine, wanted in zip(cut[fingerprint], parts, strict=True):
                assert mine == wanted
        return out, err

    return run


RICH = ("regularization=[dropout,l2,mixup]", "augmentation=[flip,crop]", "optimizer=momentum", "schedule=cosine")


# Of eight steps an epoch, every fourth has a line of metrics: at an epoch's end, at such a line, between them.
@pytest.mark.parametrize("count", [1, 4, 8, 11, 24])
def test_a_run_resumes_at_the_step_at_which_it_was_interrupted(interrupted, count):
    """Numbers, rows, events and weights are those of a run that was left alone, bit for bit."""
    out, err = interrupted((*SMALL, *RICH, "clip_grad_norm=1", "probe.every=3"), count)
    assert f"interrupted; resumes at step {count} of 24; type the same command again" in err
    assert f"interrupted: resumes at step {count} of 24" in out
    (log,) = Path("outputs/cut").glob("*/run.log")
    assert f"goes on after step {count} of 24" in log.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ("optimizer=lbfgs", "epochs=8"),
        ("optimizer=adam", "accumulate=2"),
        ("optimizer=sam",),
        ("ensemble=ema", "optimizer=adam"),
        ("ensemble=independent", "ensemble.members=2"),
        ("ensemble=snapshot", "ensemble.members=2", "schedule=warm_restarts", "schedule.every=25%", "epochs=4"),
        ("model=convnet", "transfer=gradual", "epochs=5"),
    ],
)
def test_whatever_trains_goes_on(interrupted, words):
    """Full batches, micro-batches, averages and ensembles; here after what Slurm sends before the time limit."""
    own = {word.partition("=")[0] for word in words}
    interrupted((*(word for word in SMALL if word.partition("=")[0] not in own), *words), 5, signal.SIGUSR1)


HERE = ("-m", "seed=0,1,2", "hydra.launcher.workers=0")


@pytest.mark.parametrize("fuse", ["true", "false"])
def test_a_sweep_in_one_process(interrupted, capfd, fuse):
    """Of runs that share a program each is saved; of others the one that trains, and the rest is not started."""
    out, err = interrupted((*SMALL, *RICH, *HERE, f"hydra.launcher.fuse={fuse}"), 10)
    if fuse == "true":
        assert "3 interrupted (resumes at step 4 of 24)" in err and "3 runs: 3 interrupted;" in out
    else:
        assert "1 interrupted (resumes at step 10 of 24), 2 not started" in err
        assert "3 runs: 1 interrupted, 2 not started" in out and "interrupted at step 10 of 24" in out


def test_before_the_first_step_nothing_is_called_interrupted(cli, monkeypatch, capfd):
    """While its data is loaded a run has made no step: so say console, status and report; the same command does it."""
    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "__init__", at_call(1, signal.SIGTERM, TrainState.__init__))
        code, out, err = cli(*SMALL, "-m", "seed=0,1", "name=s")
    assert code == 143 and "2 not started" in err and "interrupted" not in out
    assert command.main(["status", "outputs/s"]) == 0
    assert "2 runs in outputs/s: 2 not started" in capfd.readouterr().out
    assert not Path("outputs/s/report.html").exists()
    assert cli(*SMALL, "-m", "seed=0,1", "name=s")[0] == 0
    assert {result["status"] for result in results_of(Path("outputs/s")).values()} == {"done"}
    assert all(len(list(path.glob("events.out.*"))) == 1 for path in Path("outputs/s").glob("*seed*"))


@pytest.mark.parametrize(
    ("where", "name", "count", "steps"),
    [
        (runner.task.session, "examine", 1, 21),  # the final validation
        (runner.task.session, "examine", 2, 21),  # the test
        (runner.task.session.checkpoint, "save", 2, 21),  # the last save, in whose middle the signal comes
        (ResidentSplit, "batches", 3, 7),  # a validation
        (runner.sweep.run.launch, "write_report", 1, None),
    ],
)
def test_at_any_moment(cli, monkeypatch, where, name, count, steps):
    """Neither a traceback nor half a file; the same command ends as an undisturbed one."""
    words = (*SMALL, "checkpoint.seconds=1000")
    assert cli(*words, "name=whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(where, name, at_call(count, signal.SIGINT, getattr(where, name)))
        code, out, err = cli(*words, "name=cut")
    assert code in (0, 130) and "Traceback" not in err + out
    again = cli(*words, "name=cut")
    assert again[0] == 0
    assert left(Path("outputs/whole")) == left(Path("outputs/cut"))


def test_a_run_that_was_killed_before_its_first_save(cli, capfd):
    """Its lock, which stays, says whether it had made a step."""
    assert cli(*SMALL, "name=k")[0] == 0
    (path,) = Path("outputs/k").glob("*/result.json")
    (path.parent / "checkpoint.pt").unlink()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))
    lock = {"host": "gone", "pid": 1, "started": 1.0, "token": "x"}
    for about, standing in (({}, "not started"), ({"step": 3, "steps": 21}, "interrupted")):
        (path.parent / "lock.json").write_text(json.dumps(lock | about))
        os.utime(path.parent / "lock.json", (0, 0))
        assert command.main(["status", "outputs/k"]) == 0
        assert f"1 run in outputs/k: 1 {standing}" in capfd.readouterr().out


def test_signals_that_others_ignore_or_handle_stay_theirs():
    """`nohup` ignores one, a debugger handles another: neither is touched; afterwards all is as before."""
    before = Counter(map(signal.getsignal, interruption.SIGNALS))
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, old)
    assert Counter(map(signal.getsignal, interruption.SIGNALS)) == before


# -- other processes ------------------------------------------------------------------------------------------------

LONG = ("model=mlp", "epochs=300", "threads=1", "log.images=0", "log.tensorboard=false", "hydra.launcher.fuse=false")


@contextlib.contextmanager
def under_way(folder: Path, name: str, count: int, *words: str):
    """A command as a terminal starts it, in a group of its own, when so many of its runs have made steps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *words, f"name={name}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where a shell has put the tests into the background, it has them ignore the signal.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        process_group=0,
    )
    try:
        deadline = time.monotonic() + 120
        while len(holders(folder / "outputs" / name)) < count and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def holders(folder: Path) -> list[int]:
    """The processes whose runs have made a step."""
    locks = [lock.read(path.parent) or {} for path in folder.glob("*/lock.json")]
    return [about["pid"] for about in locks if about.get("step")]


def test_ctrl_c_goes_to_command_and_workers(cli):
    """Both runs are saved by their workers before the command ends; a second Ctrl-C would end at once."""
    with under_way(Path.cwd(), "two", 2, *LONG, "-m", "seed=0,1,2", "hydra.launcher.workers=2") as process:
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "3 runs: 2 interrupted, 1 not started" in out
    steps = [result["stopped"]["step"] for result in results_of(Path("outputs/two")).values()]
    assert len(steps) == 2 and all(f"at step {step} of 6000" in err for step in steps) and min(steps) > 0
    states = [checkpoint.load(path) for path in Path("outputs/two").glob("*/checkpoint.pt")]
    assert sorted(state["runs"][0]["progress"]["step"] for state in states) == sorted(steps)


def test_an_end_while_workers_are_made_leaves_no_traceback(cli):
    """The server that makes them is still loading; a worker that began later would find the command gone."""
    words = ("-m", *LONG, "seed=0,1", "hydra.launcher.workers=2", "sweep.probe=false")
    with under_way(Path.cwd(), "early", 0, *words) as process:
        deadline = time.monotonic() + 60
        while not _servers(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err and "runner: interrupted" in err, err


def _servers(pid: int) -> list[psutil.Process]:
    """The process from which a command's workers are forked."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(pid).children(recursive=True)
        return [child for child in children if "multiprocessing.forkserver" in " ".join(child.cmdline())]
    return []


def test_a_worker_that_is_asked_to_end_saves_its_run(cli):
    """The others go on in other processes; the run is left for the next command, which goes on with it."""
    words = (LONG[0], "epochs=150", *LONG[2:], "-m", "seed=0,1", "hydra.launcher.workers=1")
    with under_way(Path.cwd(), "one", 1, *words) as process:
        os.kill(holders(Path("outputs/one"))[0], signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err and "2 runs: 1 interrupted, 1 done" in out
    (stopped,) = (r["stopped"] for r in results_of(Path("outputs/one")).values() if r["status"] == "running")
    assert f"[1/2] seed=0  interrupted  resumes at step {stopped['step']} of 3000" in out
    code, _, _ = cli(*words, "name=one")
    (log,) = Path("outputs/one").glob("seed=0*/run.log")
    assert code == 0 and f"goes on after step {stopped['step']} of 3000" in log.read_text()


def test_a_killed_command_leaves_workers_that_save(cli):
    """They see that it is gone, save what they train, and end."""
    with under_way(Path.cwd(), "gone", 1, *LONG, "-m", "seed=0,1", "hydra.launcher.workers=1") as process:
        (worker,) = holders(Path("outputs/gone"))
        process.kill()
        deadline = time.monotonic() + 60
        while holders(Path("outputs/gone")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not holders(Path("outputs/gone")), f"{worker} goes on"
    (result,) = results_of(Path("outputs/gone")).values()
    assert result["stopped"]["step"] > 0


def test_a_second_ctrl_c_ends_at_once(cli):
    """A step that takes forever is not waited for, if a person says so; exit code and folder are those of a kill."""
    words = (
        "model=custom",
        "model._target_=tests.shared.sweeps.Sleeper",
        "trust=[tests]",
        "+model.seconds=30",
    )
    with under_way(Path.cwd(), "slow", 0, *words, "epochs=1", "log.images=0") as process:
        while not list(Path("outputs/slow").glob("*/metrics.csv")) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 10 and process.returncode == 130
    assert "what was trained is saved first; Ctrl-C again ends at once" in err and "Traceback" not in err


def test_slurms_signal_before_the_time_limit_saves_and_requeues(cli):
    """Submitit sends it and queues the job again, which goes on at that step; with its executor of this machine."""
    pytest.importorskip("submitit")
    words = (*LONG[:5], "hydra/launcher=slurm", "hydra.launcher.executor=local")
    with under_way(Path.cwd(), "job", 1, *words, "-m", "seed=0,1", "hydra.launcher.jobs=1") as process:
        os.kill(holders(Path("outputs/job"))[0], signal.SIGUSR2)
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "2 runs: 2 done" in out, err
    lines = "".join(path.read_text() for path in Path("outputs/job").glob("*/run.log"))
    (step,) = re.findall(r"interrupted; goes on after step (\d+) of 6000", lines)
    assert int(step) > 0 and f"goes on after step {step} of 6000" in lines.replace("interrupted; goes on", "")


def test_a_search_is_interrupted_as_a_sweep_is(cli, monkeypatch):
    """Its trials are those of an undisturbed search; the one under way resumes at its step."""
    pytest.importorskip("optuna")
    words = ("-m", *SMALL, "hydra/sweeper=search", "hydra.sweeper.n_trials=3", "hydra.launcher.workers=0")
    words = (*words, "optimizer.lr=tag(log,interval(1e-3,1e-1))", "log.tensorboard=false")
    assert cli(*words, "name=whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "after_update", at_call(30, signal.SIGINT, TrainState.after_update))
        code, out, err = cli(*words, "name=cut")
    assert code == 130 and "2 of 3 trials: 1 done, 1 interrupted (resumes at step 6 of 24), 1 not started;" in out
    assert "1 done, 1 interrupted (resumes at step 6 of 24), 1 not started; the same command goes on" in err
    assert cli(*words, "name=cut")[0] == 0
    whole, cut = left(Path("outputs/whole")), left(Path("outputs/cut"))
    assert {key: parts[1:] for key, parts in whole.items()} == {key: parts[1:] for key, parts in cut.items()}


@pytest.mark.parametrize("fuse", ["true", "false"])
def test_the_time_of_training_counts_where_it_is_stopped(cli, monkeypatch, fuse):
    """Also of runs that share a program, whose clocks stand still while others are finished."""
    words = ("-m", *SMALL, "seed=0,1", f"hydra.launcher.fuse={fuse}", "hydra.launcher.workers=0", "name=s")
    update = TrainState.after_update

    def slow(self):
        time.sleep(0.02)
        update(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "after_update", at_call(20, signal.SIGINT, slow))
        assert cli(*words)[0] == 130
    stopped = [result for result in results_of(Path("outputs/s")).values() if result["stopped"]]
    assert stopped and all(result["seconds"] >= 0.02 * result["stopped"]["step"] for result in stopped)
