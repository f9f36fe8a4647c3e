"""What results.csv, the report and status say of a run: what it was made with, and which revisions it has."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runner.store.revisions
from runner.report import write_report
from runner.store.revisions import Revision, older, revision_list
from runner.sweep.__main__ import main as sweep
from tests.shared.results import result_of, results_of

QUICK = ("epochs=1", "log.images=0", "log.tensorboard=false", "data.limit=200", "checkpoint.select=last")
RATE = Revision("schedule", 2, lambda config, channels: config["schedule"]["_target_"].endswith("Cosine"), "new rates")


def rows(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "results.csv").open() as file:
        return list(csv.DictReader(file))


# -- what an evaluation's networks were trained with ------------------------------------------------------------------


@pytest.fixture
def trained(cli):
    """Two runs that have little of the config's defaults."""
    words = (*QUICK, "model=mlp", "schedule=cosine", "batch_size=32", "regularization=[l2,dropout]", "name=trained")
    assert cli("optimizer=sgd", "optimizer.lr=0.5", *words)[0] == 0
    assert cli("optimizer=momentum", "optimizer.lr=0.25", *words)[0] == 0
    return cli


def test_rows_of_an_evaluation_name_its_network(trained):
    """Choices and keys are those of the checkpoint's own run, in result.json, in the table and on the page."""
    path = str(next(Path("outputs/trained").glob("*optimizer=sgd*"))).replace("=", "?").replace(",", "?")
    for split in ("test", "val"):
        code, _, err = trained("task=evaluate", f"task.checkpoint={path}", f"task.split={split}", "name=asked")
        assert (code, err) == (0, "")
    choices = [result["choices"] for result in results_of(Path("outputs/asked")).values()]
    for names in choices:
        assert (names["model"], names["optimizer"], names["schedule"], names["data"]) == (
            *("mlp", "sgd", "cosine"),
            "digits",
        )
        assert names["regularization"] == ["l2", "dropout"] and "surface" not in names
    assert trained(*QUICK[1:], "epochs=2", "model=convnet", "batch_size=50", "optimizer=adam", "name=asked")[0] == 0
    wanted = {"model": "mlp", "optimizer": "sgd", "epochs": "1", "batch_size": "32"}
    table = rows("outputs/asked")
    asked = [row for row in table if row["task"] == "evaluate"]
    assert len(asked) == 2 and all(row[key] == value for row in asked for key, value in wanted.items())
    (other,) = [row for row in table if row["task"] != "evaluate"]
    assert (other["model"], other["optimizer"], other["epochs"]) == ("convnet", "adam", "2")


def test_several_networks_are_a_list(trained):
    """An ensemble of runs that differ names each option and value once."""
    words = ("task=evaluate", "ensemble=checkpoints", "ensemble.runs=outputs/trained/*", "name=asked")
    assert trained(*words)[0] == 0
    result = result_of(Path("outputs/asked"))
    assert result["choices"]["optimizer"] == ["momentum", "sgd"] and result["choices"]["model"] == "mlp"
    assert result["choices"]["ensemble"] == "checkpoints"
    assert sorted(origin["config"]["optimizer"]["lr"] for origin in result["origins"]) == [0.25, 0.5]
    assert trained(*QUICK, "optimizer.lr=0.125", "name=asked")[0] == 0
    table = {row["optimizer.lr"] for row in rows("outputs/asked")}
    assert table == {"[0.25,0.5]", "0.125"}


def test_seeds_of_one_config_are_one_origin(cli):
    """An ensemble of seeds does not repeat their config."""
    assert cli("-m", *QUICK, "model=mlp", "seed=0,1,2", "name=trained")[0] == 0
    assert cli("task=evaluate", "ensemble=checkpoints", "ensemble.runs=outputs/trained/*", "name=asked")[0] == 0
    (origin,) = result_of(Path("outputs/asked"))["origins"]
    assert len(origin["runs"]) == 3 and origin["choices"]["model"] == "mlp"


def test_rows_of_predictions_name_their_network(trained):
    """task=predict has no data of its own: it names that of the training."""
    Path("photos").mkdir()
    Image.new("L", (8, 8)).save("photos/a.png")
    path = str(next(Path("outputs/trained").glob("*optimizer=sgd*"))).replace("=", "?").replace(",", "?")
    assert trained("task=predict", f"task.checkpoint={path}", "task.images=photos", "name=asked")[0] == 0
    choices = result_of(Path("outputs/asked"))["choices"]
    assert (choices["model"], choices["optimizer"], choices["data"]) == ("mlp", "sgd", "digits")


@pytest.mark.parametrize("names", [None, {"model": {"_target_": "os.system"}, "optimizer": 3}, "x"])
def test_checkpoints_without_choices(trained, names):
    """A checkpoint from before choices were kept, or with nonsense in their place: the folder's result tells, and
    without one the classes do."""
    from runner.store import checkpoint

    (folder,) = Path("outputs/trained").glob("*optimizer=sgd*")
    kept = checkpoint.load(folder / checkpoint.FILE)
    about = json.loads(kept["about"])
    del about["choices"]
    kept["about"] = json.dumps(about if names is None else about | {"choices": names})
    checkpoint.save(folder / checkpoint.FILE, kept)
    for name in ("beside", "alone"):
        Path(name).mkdir()
        Path(name, checkpoint.FILE).write_bytes((folder / checkpoint.FILE).read_bytes())
    Path("beside/result.json").write_bytes((folder / "result.json").read_bytes())
    for name in ("beside", "alone"):
        assert trained("task=evaluate", f"task.checkpoint={name}", f"name={name}")[0] == 0
        choices = result_of(Path("outputs") / name)["choices"]
        assert (choices["model"], choices["optimizer"]) == ("mlp", "sgd")


@pytest.mark.parametrize(
    ("words", "absent", "present"),
    [
        (("task=surface", "optimizer=adam", "task.steps=30"), ("data", "model"), ("optimizer", "surface", "schedule")),
        (("task=lr_range", "task.steps=20", "model=mlp"), ("schedule", "surface"), ("optimizer", "model", "data")),
        (("task=preview", "augmentation=[flip]"), ("optimizer", "schedule"), ("data", "augmentation")),
        (("task=saddles", "task.functions=1", "task.starts=2", "task.dimension=2", "task.features=50"), ("model",), ()),
        (("model=mlp", *QUICK), ("surface",), ("model", "data")),
    ],
    ids=lambda words: words[0] if words else "",
)
def test_other_tasks_name_no_option_that_they_do_not_use(cli, words, absent, present):
    """Groups that a task ignores are in none of its columns."""
    assert cli(*words, "name=first")[0] == 0
    choices = result_of(Path("outputs/first"))["choices"]
    assert not set(absent) & set(choices) and set(present) <= set(choices)


# -- interpolations ---------------------------------------------------------------------------------------------------


def test_interpolations_are_shown_resolved(cli, monkeypatch):
    """Folder, results.csv, result.json and HParams have the value, numbers as numbers; the command stays as typed."""
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.setenv("P", "0.25")
    words = ("model=mlp", "log.images=0", "data.limit=200", "name=first", "regularization=[dropout]")
    typed = ("epochs=${oc.env:EPOCHS},1", "optimizer.lr=${lr_scale}", "regularization.dropout.p=${oc.env:P},0.5")
    code, _, err = cli("-m", *words, *typed, "lr_scale=0.1,0.2")
    assert (code, err) == (0, "")
    table = rows("outputs/first")
    assert {row["epochs"] for row in table} == {"1", "2"} and len(table) == 8
    assert {(row["optimizer.lr"], row["lr_scale"]) for row in table} == {("0.1", "0.1"), ("0.2", "0.2")}
    assert {row["regularization.dropout.p"] for row in table} == {"0.25", "0.5"}
    for folder, result in results_of(Path("outputs/first")).items():
        assert result["swept"]["epochs"] == result["epochs"] and "oc.env" not in folder
        assert isinstance(result["swept"]["regularization.dropout.p"], float)
        assert not any("$" in word for word in result["overrides"])
        assert "${oc.env:EPOCHS},1" in result["command"]
        events = EventAccumulator(str(Path("outputs/first") / folder)).Reload()
        shown = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        assert b"oc.env" not in shown
    assert "oc.env" not in Path("outputs/first/report.html").read_text().partition("How to repeat")[0]


def test_an_interpolated_value_is_the_typed_one(cli, monkeypatch):
    """Whether a number was typed or came from the environment, it is one run."""
    words = (*QUICK[1:], "model=mlp", "name=first", "regularization=[dropout]")
    assert cli(*words, "epochs=1", "regularization.dropout.p=0.25", "model.hidden=[16]")[0] == 0
    for name, text in (("E", "1"), ("P", "0.25"), ("H", "16")):
        monkeypatch.setenv(name, text)
    typed = ("epochs=${oc.env:E}", "regularization.dropout.p=${oc.env:P}", "model.hidden=[${oc.env:H}]")
    assert "done already" in cli(*words, *typed)[1]


def test_a_condition_compares_what_an_interpolation_resolved_to(cli, monkeypatch):
    """`sweep.exclude` takes out a combination by the value, not by the words."""
    monkeypatch.setenv("E", "2")
    words = (*QUICK[1:], "model=mlp", "epochs=${oc.env:E},1", "sweep.exclude=[epochs=2]", "seed=0,1", "name=first")
    assert cli("-m", *words)[0] == 0
    assert [row["seed"] for row in rows("outputs/first")] == ["0", "1"]
    assert {result["epochs"] for result in results_of(Path("outputs/first")).values()} == {1}


def test_two_values_of_one_interpolation_are_told_apart(cli, monkeypatch):
    """The same words with another environment are other settings: no mean mixes them."""
    for epochs, seeds in (("1", "seed=0,1"), ("2", "seed=2,3")):
        monkeypatch.setenv("E", epochs)
        assert cli("-m", *QUICK[1:], "model=mlp", "epochs=${oc.env:E}", seeds, "name=first")[0] == 0
    assert sorted(row["epochs"] for row in rows("outputs/first")) == ["1", "1", "2", "2"]
    assert "4 runs, 2 combinations" in Path("outputs/first/report.html").read_text()


def test_interpolations_of_a_files_sweep(cli, monkeypatch):
    """`hydra.sweeper.params` of an experiment are resolved likewise."""
    monkeypatch.setenv("E", "2")
    file = {"hydra": {"sweeper": {"params": {"epochs": "${oc.env:E},1", "optimizer.lr": "${lr_scale},0.01"}}}}
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump(file))
    words = ("--config-dir", "conf", "-m", "experiment=mine", *QUICK[1:], "model=mlp", "name=first")
    assert cli(*words)[0] == 0
    assert {(row["epochs"], row["optimizer.lr"]) for row in rows("outputs/first")} == {
        *(("2", "1.0"), ("1", "1.0"), ("2", "0.01"), ("1", "0.01"))
    }


# -- revisions ------------------------------------------------------------------------------------------------------


def test_runs_of_an_older_revision_are_named(cli, monkeypatch, capfd):
    """After a change of our numbers the command trains again beside the old folders, which report and status name."""
    words = ("-m", *QUICK, "model=mlp", "schedule=cosine,constant", "name=first")
    assert cli(*words, "seed=0,1")[0] == 0
    monkeypatch.setattr(runner.store.revisions, "REVISIONS", (*runner.store.revisions.REVISIONS, RATE))
    old = {name for name, result in results_of(Path("outputs/first")).items() if "cosine" in name}
    assert sweep(["status", "outputs/first"]) == 0
    said = capfd.readouterr().out
    assert "2 runs of an older revision" in said and all(f"{name}: schedule (revision 1)" in said for name in old)
    write_report(Path("outputs/first"))
    page = Path("outputs/first/report.html").read_text()
    assert "2 runs of an older revision" in page and "run with different code" not in page
    code, out, _ = cli(*words, "seed=0,1,2")
    assert code == 0 and "2 of 6 runs done already" in out
    results = results_of(Path("outputs/first"))
    assert len(results) == 8 and sum(result["revisions"] == {"schedule": 2} for result in results.values()) == 3
    table = rows("outputs/first")
    assert {(row["schedule"], row["code"]) for row in table} == {
        ("cosine", "schedule revision 1 (older)"),
        ("cosine", "schedule revision 2"),
        ("constant", ""),
    }
    page = Path("outputs/first/report.html").read_text()
    assert "8 runs, 3 combinations" in page and "schedule=cosine: <b>schedule revision 1 (older)</b>, 2 runs" in page


def test_status_and_report_of_old_revisions_load_no_torch(cli, monkeypatch):
    """Both read the list alone, of a result that was recorded before there was one, too."""
    assert cli(*QUICK, "model=mlp", "schedule=cosine", "name=first")[0] == 0
    (path,) = Path("outputs/first").glob("*/result.json")
    result = json.loads(path.read_text())
    del result["revisions"], result["revision_list"]
    path.write_text(json.dumps(result))
    lines = (
        "import sys, runner.store.revisions as r\nfrom runner.sweep.__main__ import main\n"
        "r.REVISIONS = (r.Revision('schedule', 2, lambda config, channels: channels == 1, 'new'),)\n"
        "assert main(['status', 'outputs/first']) == 0\nassert 'torch' not in sys.modules\n"
        "from runner.report.__main__ import main\nassert main(['outputs/first']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "1 run of an older revision" in done.stdout
    assert "1 run of an older revision" in Path("outputs/first/report.html").read_text()


def test_revisions_of_a_run_are_those_of_its_task(monkeypatch):
    """What a task ignores has no revision in it; what the networks that it asks are made of has."""
    select = Revision("checkpoint.select", 2, lambda config, channels: True, "chosen otherwise")
    model = Revision("model", 2, lambda config, channels: config["model"]["_target_"] == "a.Net", "other features")
    monkeypatch.setattr(runner.store.revisions, "REVISIONS", (select, model))
    config = {"model": {"_target_": "runner.Default"}}
    assert older({"revisions": {}}, config) == {"checkpoint.select": 1}
    assert older({}, config) == {"checkpoint.select": 1}
    assert older({"revisions": {"checkpoint.select": 2}}, config) == {}
    assert older({"revision_list": revision_list()}, config) == {}
    asked = {"choices": {"task": "evaluate"}, "origins": [{"config": {"model": {"_target_": "a.Net"}}, "channels": 3}]}
    assert older(asked, config) == {"model": 1}
    assert older({"choices": {"task": "lr_range"}}, config) == {}


def test_an_evaluation_of_a_revised_network_is_asked_again(cli, monkeypatch):
    """task=evaluate of a network whose model has a new revision does not answer from the old folder."""
    assert cli(*QUICK, "model=mlp", "name=trained")[0] == 0
    ask = ("task=evaluate", "task.checkpoint=outputs/trained/*", "name=asked")
    assert cli(*ask)[0] == 0 and "done already" in cli(*ask)[1]
    other = Revision("model", 2, lambda config, channels: "mlp" in config["model"]["_target_"], "other features")
    select = Revision("checkpoint.select", 2, lambda config, channels: True, "chosen otherwise")
    monkeypatch.setattr(runner.store.revisions, "REVISIONS", (select,))
    assert "done already" in cli(*ask)[1]
    monkeypatch.setattr(runner.store.revisions, "REVISIONS", (select, other))
    assert "done already" not in cli(*ask)[1]
    assert [r["revisions"] for r in results_of(Path("outputs/asked")).values()].count({"model": 2}) == 1


def test_what_all_runs_share_is_no_name_of_one(cli, monkeypatch):
    """Two programs of one combination are told apart; the others have no word for it, and neither a revision of all."""
    Path("mine.py").write_text("import torch\n\n\nclass Own(torch.optim.SGD):\n    pass\n")
    words = ("-m", *QUICK, "model=mlp", "trust=[mine]", "optimizer.lr=0.1", "name=s")
    assert cli(*words, "optimizer=sgd,momentum")[0] == 0
    for edit in ("# one\n", "# two\n"):
        Path("mine.py").write_text(Path("mine.py").read_text() + edit)
        assert cli(*words, "optimizer=sgd", "optimizer._target_=mine.Own", "seed=0,1")[0] == 0
    labels = {(row["optimizer._target_"], row["code"]) for row in rows("outputs/s")}
    assert {code for target, code in labels if target != "mine.Own"} == {""}
    own = {code for target, code in labels if target == "mine.Own"}
    assert len(own) == 2 and all(code.startswith("mine.Own ") and "revision" not in code for code in own)


def test_networks_of_one_path_are_told_apart(cli):
    """The folder that is asked holds another training by then."""
    for epochs in (1, 2):
        shutil.rmtree("one", ignore_errors=True)
        assert cli(*QUICK[1:], "model=mlp", f"epochs={epochs}", "hydra.run.dir=one")[0] == 0
        assert cli("task=evaluate", "task.checkpoint=one", "name=asked")[0] == 0
    assert sorted(row["epochs"] for row in rows("outputs/asked")) == ["1", "2"]
