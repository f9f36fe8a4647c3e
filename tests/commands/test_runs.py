"""The promises of the command line, typed as a user types them."""

import csv
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

from runner.__main__ import main
from tests.shared.results import metrics, numbers, result_of, results_of

QUICK = ("model=mlp", "epochs=2", "log.images=0")


def points(folder: Path) -> dict[str, list]:
    """Every scalar that TensorBoard shows of a run, but probes of two steps between which a run may have resumed."""
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "update_cosine"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def test_a_run_leaves_all_that_is_promised(cli):
    """The defaults train on the embedded digits and leave every file."""
    code, out, err = cli("epochs=2", "model=mlp")
    assert (code, err) == (0, "")
    (folder,) = (path for path in Path("outputs/runs").iterdir() if path.is_dir())
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "result.json", "metrics.csv", "checkpoint.pt", "run.log", ".hydra"} <= names
    assert any("tfevents" in name for name in names)
    result = result_of(Path("outputs/runs"))
    assert result["status"] == "done" and result["epochs"] == 2 and result["data"]["test"] == 359
    assert 0.3 < result["test_accuracy"] <= 1 and f"test accuracy {result['test_accuracy']:.4f}" in out
    assert Path("outputs/runs/results.csv").exists() and Path("outputs/runs/report.html").exists()
    assert len(metrics(folder)) == 2


def test_the_same_command_repeats_nothing_and_rerun_repeats_bit_for_bit(cli):
    """Same fingerprint, same run; with rerun=true the same numbers."""
    assert cli(*QUICK)[0] == 0
    first = result_of(Path("outputs/runs"))
    code, out, _ = cli(*QUICK)
    assert code == 0 and "1 of 1 run done already" in out
    assert result_of(Path("outputs/runs")) == first
    assert cli(*QUICK, "rerun=true")[0] == 0
    assert numbers(result_of(Path("outputs/runs"))) == numbers(first)
    assert result_of(Path("outputs/runs"))["started"] >= first["started"]


def test_a_sweep_runs_every_combination_once(cli):
    """The product of the values, a row each, duplicates once, and the second command does nothing."""
    words = ("-m", *QUICK, "optimizer=sgd,adam", "seed=0,1,0", "name=first")
    code, out, _ = cli(*words)
    assert code == 0 and "2 combinations typed twice" in out
    results = results_of(Path("outputs/first"))
    assert {(r["swept"]["optimizer"], r["swept"]["seed"]) for r in results.values()} == {
        (optimizer, seed) for optimizer in ("sgd", "adam") for seed in (0, 1)
    }
    with Path("outputs/first/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert list(rows[0])[:4] == ["run", "status", "optimizer", "seed"]
    assert list(rows[0])[-6:] == ["val_accuracy", "val_loss", "test_accuracy", "test_loss", "epochs", "seconds"]
    code, out, _ = cli(*words)
    assert code == 0 and "nothing was left to do" in out
    assert results_of(Path("outputs/first")) == results


def test_a_run_of_a_sweep_equals_the_lone_run(cli):
    """Neither the sweep nor what ran before changes a run's numbers."""
    cli("-m", *QUICK, "optimizer=sgd,adam", "seed=0,1", "name=sweep")
    cli(*QUICK, "optimizer=adam", "seed=1", "name=lone")
    lone = result_of(Path("outputs/lone"))
    same = next(r for r in results_of(Path("outputs/sweep")).values() if r["fingerprint"] == lone["fingerprint"])
    assert (same["val_loss"], same["test_loss"]) == (lone["val_loss"], lone["test_loss"])


def test_the_same_run_under_other_words_is_found(cli):
    """A default typed out is no other run."""
    cli(*QUICK)
    code, out, _ = cli(*QUICK, "optimizer=adam", "optimizer.lr=1e-3", "threads=1")
    assert code == 0 and "done already" in out
    assert len(results_of(Path("outputs/runs"))) == 1


def test_a_swept_stack_and_its_keys(cli):
    """Lists of lists sweep stacks; a constant key of an item goes where the item is."""
    code, _, err = cli(
        "-m", *QUICK, "regularization=[dropout],[dropout,l2],[l2,dropout]", "regularization.dropout.p=0.3", "name=stack"
    )
    assert (code, err) == (0, "")
    results = results_of(Path("outputs/stack"))
    assert sorted(map(str, (r["swept"]["regularization"] for r in results.values()))) == [
        "['dropout', 'l2']",
        "['dropout']",
        "['l2', 'dropout']",
    ]
    for folder in results:
        assert "p: 0.3" in (Path("outputs/stack") / folder / "config.yaml").read_text()


def test_an_experiment_brings_its_sweep_and_two_are_expanded(cli, tmp_path):
    """A file's own sweep is run under -m, two files' each; typed values win over the file's."""
    experiments = tmp_path / "mine" / "experiment"
    experiments.mkdir(parents=True)
    for name, lrs in (("a", "0.1,0.2"), ("b", "0.3")):
        (experiments / f"{name}.yaml").write_text(
            f"# @package _global_\ndefaults:\n  - override /optimizer: sgd\nepochs: 1\n"
            f"hydra:\n  sweeper:\n    params:\n      optimizer.lr: {lrs}\n      model: mlp\n"
        )
    mine = ("--config-dir", str(tmp_path / "mine"))
    assert cli(*mine, "experiment=a")[0] == 2
    assert cli(*mine, "-m", "experiment=a,b", "name=both")[0] == 0
    rates = sorted(r["swept"]["optimizer.lr"] for r in results_of(Path("outputs/both")).values())
    assert rates == [0.1, 0.2, 0.3]
    assert cli(*mine, "-m", "experiment=a", "optimizer.lr=0.5,0.6,0.7", "name=typed")[0] == 0
    assert len(results_of(Path("outputs/typed"))) == 3


def test_a_dry_run_shows_the_plan_and_makes_nothing(cli):
    """Every combination, its size and status, and no folder."""
    code, out, _ = cli("-m", *QUICK, "optimizer=sgd,adam", "dry_run=true")
    assert code == 0 and "optimizer=sgd" in out and "9,610" in out and "2 to run, 0 done already" in out
    assert not Path("outputs").exists()
    cli(*QUICK, "optimizer=sgd")
    _, out, _ = cli("-m", *QUICK, "optimizer=sgd,adam", "dry_run=true")
    assert "1 to run, 1 done already" in out


def test_the_folders_that_a_user_sets_are_honoured(cli):
    """hydra.run.dir holds a lone run's result itself; hydra.sweep.dir holds results.csv and the report."""
    assert cli(*QUICK, "hydra.run.dir=mine/here")[0] == 0
    assert json.loads(Path("mine/here/result.json").read_text())["status"] == "done"
    code, _, err = cli(*QUICK, "seed=5", "hydra.run.dir=mine/here")
    assert code == 2 and "holds another run" in err
    assert cli("-m", *QUICK, "seed=0,1", "hydra.sweep.dir=there")[0] == 0
    assert len(results_of(Path("there"))) == 2
    assert {"results.csv", "report.html"} <= {path.name for path in Path("there").iterdir()}
    assert not Path("outputs").exists()


def test_a_hydra_subdir_of_the_users_own(cli):
    """hydra.sweep.subdir names the runs' folders, and they are found again."""
    words = ("-m", *QUICK, "seed=0,1", "hydra.sweep.subdir=s${seed}", "name=sub")
    assert cli(*words)[0] == 0
    assert set(results_of(Path("outputs/sub"))) == {"s0", "s1"}
    assert "nothing was left to do" in cli(*words)[1]


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


def test_another_evaluation_trains_once(cli, tmp_path, monkeypatch):
    """A second evaluation of the same training takes the trained network."""
    (tmp_path / "doubling.py").write_text(
        "from runner.evaluation.standard import Standard\n"
        "class Hot(Standard):\n"
        "    def __init__(self, temperature: float = 3.0):\n"
        "        self.temperature = temperature\n"
        "    def log_probabilities(self, model, images, normalize):\n"
        "        return (model(normalize(images)) / self.temperature).log_softmax(-1)[None]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf/evaluation").mkdir(parents=True)
    (tmp_path / "conf/evaluation/hot.yaml").write_text("_target_: doubling.Hot\ntemperature: 3.0\n")
    words = ("--config-dir", "conf", "-m", *QUICK, "trust=[doubling]", "evaluation=standard,hot", "name=eval")
    assert cli(*words)[0] == 0
    results = {r["swept"]["evaluation"]: r for r in results_of(Path("outputs/eval")).values()}
    assert results["standard"]["training"] == results["hot"]["training"]
    assert results["standard"]["trained_in"] is None and results["hot"]["trained_in"] == results["standard"]["run"]
    assert results["hot"]["test_accuracy"] == results["standard"]["test_accuracy"]
    assert results["hot"]["test_loss"] != results["standard"]["test_loss"]


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


def test_a_real_process_from_any_folder(tmp_path):
    """`runner` and `python -m runner` work where nothing of the project lies."""
    script = Path(sys.executable).with_name("runner")
    for command in ([str(script)], [sys.executable, "-m", "runner"]):
        done = subprocess.run(
            [*command, *QUICK, "log.tensorboard=false"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert result_of(tmp_path / "outputs/runs")["status"] == "done"


def test_help_lists_groups_options_and_examples_without_torch(tmp_path):
    """--help knows every group and takes no second."""
    start = time.perf_counter()
    code = (
        "import sys; from runner.__main__ import main\ncode = main(['--help'])\n"
        "assert not {'torch', 'torchvision', 'tensorboard'} & set(sys.modules), 'heavy imports'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "optimizer: ",
        "nesterov",
        "regularization: ",
        "label_smoothing",
        "-m optimizer=sgd,adam",
        "tensorboard",
    ):
        assert word in done.stdout
    assert took < 5  # a bound for busy machines; benchmarks/ has the measured time


def test_cfg_job_prints_the_config(cli):
    """Hydra's own commands work."""
    code, out, _ = cli("--cfg", "job", "optimizer=sgd", "optimizer.lr=0.7")
    assert code == 0 and "lr: 0.7" in out and "torch.optim.SGD" in out
    assert not Path("outputs").exists()


def test_shell_completion_knows_options(tmp_path):
    """Hydra's completion offers a group's options."""
    environment = os.environ | {"COMP_LINE": "runner optimizer=nes"}
    done = subprocess.run(
        [sys.executable, "-m", "runner", "-sc", "query=bash"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert "optimizer=nesterov" in done.stdout


def test_main_puts_the_process_back_as_it_was(cli):
    """Threads, argv and environment are as before a run."""
    import torch

    before = (torch.get_num_threads(), list(sys.argv), os.environ.get("HYDRA_FULL_ERROR"))
    assert main([*QUICK, "threads=2"]) == 0
    assert (torch.get_num_threads(), list(sys.argv), os.environ.get("HYDRA_FULL_ERROR")) == before


def test_an_experiment_may_bring_several_products(cli, tmp_path):
    """hydra.sweeper.grids are products beside each other, each with what params sweep."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/two.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mlp\nepochs: 1\nhydra:\n  sweeper:\n"
        "    params:\n      seed: 0,1\n    grids:\n      - optimizer: sgd\n"
        "      - optimizer: momentum\n        optimizer.momentum: 0.5,0.9\n"
    )
    code, out, _ = cli("--config-dir", "conf", "-m", "experiment=two", "log.images=0")
    assert code == 0 and "6 runs: 6 done" in out
    swept = [r["swept"] for r in results_of(Path("outputs/runs")).values()]
    assert sorted((s["optimizer"], s.get("optimizer.momentum"), s["seed"]) for s in swept if s["seed"] == 0) == [
        ("momentum", 0.5, 0),
        ("momentum", 0.9, 0),
        ("sgd", None, 0),
    ]


def test_options_may_stand_anywhere_and_brackets_are_shown(cli, tmp_path):
    """--config-dir after the overrides works; what was typed is printed as it was typed."""
    (tmp_path / "mine/schedule").mkdir(parents=True)
    (tmp_path / "mine/schedule/flat.yaml").write_text("_target_: runner.schedule.constant.Constant\n")
    code, out, err = cli(*QUICK, "--config-dir", "mine", "schedule=flat", "regularization=[dropout,l2]")
    assert (code, err) == (0, "") and "regularization=[dropout,l2]" in out


def test_a_module_where_one_types_is_found_and_must_be_a_network(tmp_path):
    """`runner` finds a class in the current folder; one that is no nn.Module is refused in a line."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nclass NoNet:\n    pass\nclass Net(nn.Sequential):\n"
        "    def __init__(self, num_classes: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    runner = [str(Path(sys.executable).with_name("runner")), "model=custom", "trust=[nets]", "epochs=1"]
    for name, code, said in (("Net", 0, ""), ("NoNet", 2, "gives a NoNet, not a torch.nn.Module")):
        words = [*runner, f"model._target_=nets.{name}"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr


def test_a_swept_epochs_column_stands_beside_the_epochs_done(cli):
    """results.csv names no column twice."""
    cli("-m", "model=mlp", "log.images=0", "epochs=1,2")
    with Path("outputs/runs/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epochs"], row["epochs_done"]) for row in rows] == [("1", "1"), ("2", "2")]


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
