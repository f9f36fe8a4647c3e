"""The frozen plan of a sweep: edits, resumed runs, files of other programs."""

import json
from pathlib import Path

import pytest

from runner.sweep import __main__ as command
from runner.sweep.plan import plan_file
from tests.shared.results import results_of
from tests.shared.sweeps import CUSTOM, SWEEP


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
