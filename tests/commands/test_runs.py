"""Runs and sweeps as a user types them: files, equal numbers, and no run done twice."""

import csv
import json
from pathlib import Path

from tests.shared.commands import QUICK
from tests.shared.results import metrics, numbers, result_of, results_of


def test_a_run_leaves_all_that_is_promised(cli):
    """The defaults train on the embedded digits and leave every file."""
    code, out, err = cli("epochs=2", "model=mlp")
    assert (code, err) == (0, "")
    (folder,) = (path for path in Path("outputs/runs").glob("[!.]*") if path.is_dir())
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


def test_a_swept_epochs_column_stands_beside_the_epochs_done(cli):
    """results.csv names no column twice."""
    cli("-m", "model=mlp", "log.images=0", "epochs=1,2")
    with Path("outputs/runs/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epochs"], row["epochs_done"]) for row in rows] == [("1", "1"), ("2", "2")]
