"""Folders that hold something of the user's: only files that a run of ours wrote are ever replaced or removed."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from runner.core.errors import ConfigError
from runner.report import write_report
from runner.store import owned
from runner.store.owned import clear_run
from runner.tracking.events import Tracker
from tests.shared.results import result_of, results_of

QUICK = ("model=mlp", "model.hidden=[8]", "epochs=1", "data.limit=100", "threads=1", "log.images=0")
SWEEP = ("-m", *QUICK, "seed=0,1", "log.tensorboard=false")
MINE = "the user's own\n"
RUN_NAMES = [
    *("config.yaml", "metrics.csv", "checkpoint.pt", "result.json", "run.log", "lock.json", "mistakes.png", ".guard"),
    *(".hydra/config.yaml", ".hydra/overrides.yaml", "predictions.csv", "events.out.tfevents.1700000000.77"),
]
SWEEP_NAMES = ["results.csv", "results.parquet", "report.html", "plan.json", "mean", ".guard"]
OTHERS = [
    *("thesis.tex", "data/photo.png", "config.yml", "metrics.csv.bak", "notes/metrics.csv", ".hydra/notes.txt"),
    *("events.out.tfevents.1700000000.host.77.0", "checkpoints/checkpoint.pt", ".hidden", "lock.txt"),
]


def put(folder, *names, content=MINE):
    for name in names:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def tree(folder):
    """Every file's content and every link's target."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_symlink() or not path.is_dir()]
    return {str(path): path.readlink() if path.is_symlink() else path.read_bytes() for path in paths}


def refused(cli, words, folder, name):
    """A command is refused in one line that names the file and the way out, and nothing is changed."""
    before = tree(".")
    code, out, err = cli(*words)
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    assert f"{folder}/{name}" in err and "choose another folder" in err
    assert tree(".") == before


@pytest.mark.parametrize("name", RUN_NAMES)
def test_a_file_of_the_users_under_a_name_of_ours(cli, name):
    """Refused with and without `rerun=true`, in a dry run as well."""
    put("mine", name, "thesis.tex")
    for more in ("rerun=false", "rerun=true", "dry_run=true"):
        refused(cli, (*QUICK, "hydra.run.dir=mine", more), "mine", name)


@pytest.mark.parametrize("name", ["results.csv", "report.html", "results.parquet"])
def test_a_report_of_another_program(cli, name):
    """A lone run's folder has its report in it: likewise."""
    put("mine", name, content="run,status\n1,good\n")
    refused(cli, (*QUICK, "hydra.run.dir=mine", "rerun=true"), "mine", name)


@pytest.mark.parametrize("task", ["train", "preview", "surface", "lr_range", "evaluate", "predict"])
def test_every_task_refuses(cli, task):
    """Whatever a run does."""
    words = {"preview": ("augmentation=[flip]",), "surface": ("surface=ravine",)}.get(task, ())
    if task in ("evaluate", "predict"):
        assert cli(*QUICK, "hydra.run.dir=run")[0] == 0
        put("photos", "a.png")
        words = ("task.checkpoint=run", *(("task.images=photos",) if task == "predict" else ()))
    base = ("threads=1",) if task in ("evaluate", "predict", "surface") else QUICK
    put("mine", "config.yaml")
    refused(cli, (*base, f"task={task}", *words, "hydra.run.dir=mine", "rerun=true"), "mine", "config.yaml")


def test_the_users_other_files_stay(cli):
    """A run in a folder of the user's, and the same again with `rerun=true`: nothing else is touched."""
    put("mine", *OTHERS)
    Path("mine/empty").mkdir()
    before = tree("mine")
    assert cli(*QUICK, "hydra.run.dir=mine")[0] == 0
    first = json.loads(Path("mine/result.json").read_text())
    assert cli(*QUICK, "hydra.run.dir=mine", "rerun=true")[0] == 0
    second = json.loads(Path("mine/result.json").read_text())
    assert second["started"] > first["started"] and second["test_loss"] == first["test_loss"]
    assert {path: content for path, content in tree("mine").items() if path in before} == before
    assert Path("mine/empty").is_dir()


def test_notes_in_a_runs_own_folder_stay(cli):
    """In the folder that the run has by default, also under names that a run of another task would write."""
    assert cli(*QUICK)[0] == 0
    (folder,) = Path("outputs/runs").glob("[!.]*/")
    notes = ("notes.md", "plots/loss.png", ".hydra/mine.yaml", "events.out.tfevents.1700000000.host.77.0")
    put(folder, *notes)
    stale = folder / "events.out.tfevents.1700000000.77"  # as an attempt of ours leaves one
    stale.write_text("")
    assert cli(*QUICK, "rerun=true")[0] == 0
    assert all((folder / name).read_text() == MINE for name in notes) and not stale.exists()
    put(folder, "predictions.csv")
    before = tree(folder)
    refused(cli, (*QUICK, "rerun=true"), folder, "predictions.csv")
    assert cli(*QUICK)[0] == 0 and tree(folder) == before  # done already


def test_another_run_is_replaced_file_by_file(cli):
    """`rerun=true` in the folder of another run: what that one wrote goes, all of it, and nothing else."""
    assert cli(*QUICK, "augmentation=[flip]", "task=preview", "hydra.run.dir=mine")[0] == 0
    assert Path("mine/preview_flip.png").exists()
    put("mine", "thesis.tex")
    assert cli(*QUICK, "hydra.run.dir=mine")[0] == 2
    assert cli(*QUICK, "hydra.run.dir=mine", "rerun=true")[0] == 0
    assert not list(Path("mine").glob("preview*")) and Path("mine/thesis.tex").read_text() == MINE
    assert Path("mine/checkpoint.pt").exists()


def test_what_a_run_lists_is_what_it_left(cli):
    """`files` of the result: everything in the folder but event files and the guard."""
    assert cli(*QUICK, "hydra.job.name=mine", "hydra.output_subdir=composed")[0] == 0
    (folder,) = Path("outputs/runs").glob("[!.]*/")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"mine.log", "composed/config.yaml", "checkpoint.pt"} < files
    assert set(result_of(Path("outputs/runs"))["files"]) == {f for f in files if "tfevents" not in f} - {".guard"}


def test_names_that_a_user_gives_hydras_files(cli):
    """`hydra.job.name` and `hydra.output_subdir` may name files of the user's: refused as well."""
    put("mine", "train.log")
    refused(cli, (*QUICK, "hydra.run.dir=mine", "hydra.job.name=train"), "mine", "train.log")
    put("other", "src/config.yaml")
    refused(cli, (*QUICK, "hydra.run.dir=other", "hydra.output_subdir=src"), "other", "src/config.yaml")


@pytest.mark.parametrize("name", [*RUN_NAMES[:6], ".hydra", "report.html"])
def test_links_are_not_written_through(cli, name):
    """A link under a name of ours is refused; its target stays, in a fresh folder and in a run's own."""
    put("elsewhere", "file", "folder/config.yaml")
    Path("mine").mkdir()
    Path("mine", name).symlink_to(Path("elsewhere/folder" if name == ".hydra" else "elsewhere/file").resolve())
    refused(cli, (*QUICK, "hydra.run.dir=mine", "rerun=true"), "mine", name)


@pytest.mark.parametrize("name", ["checkpoint.pt", "run.log", "config.yaml"])
def test_a_runs_file_that_was_moved_and_linked(cli, name):
    """Its target is not written through, and not removed."""
    assert cli(*QUICK, "hydra.run.dir=mine")[0] == 0
    Path("mine", name).rename("moved")
    Path("mine", name).symlink_to(Path("moved").resolve())
    refused(cli, (*QUICK, "hydra.run.dir=mine", "rerun=true"), "mine", name)


def test_a_folder_that_is_a_link(cli):
    """The folder that it leads to is treated as any other."""
    put("real", "thesis.tex")
    Path("link").symlink_to("real")
    assert cli(*QUICK, "hydra.run.dir=link")[0] == 0 and cli(*QUICK, "hydra.run.dir=link", "rerun=true")[0] == 0
    assert Path("link").is_symlink() and Path("real/thesis.tex").read_text() == MINE
    put("real", "metrics.csv.bak", "mean.txt")
    put("other", "metrics.csv")
    Path("second").symlink_to("other")
    refused(cli, (*QUICK, "hydra.run.dir=second", "rerun=true"), "second", "metrics.csv")


def test_where_the_command_is_typed_and_at_home(cli, tmp_path, monkeypatch):
    """`hydra.run.dir=.` and `~`, which is the home folder and no folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put("home", "thesis.tex", ".bashrc")
    put(".", "thesis.tex")
    for folder in (".", "~"):
        for more in ("rerun=false", "rerun=true"):
            code, _, err = cli(*QUICK, f"hydra.run.dir='{folder}'", more)
            assert code == 0, (folder, more, err)
    assert Path("result.json").exists() and Path("home/result.json").exists() and not Path("~").exists()
    assert {Path(name).read_text() for name in ("thesis.tex", "home/thesis.tex", "home/.bashrc")} == {MINE}
    put("home", "metrics.csv")


@pytest.mark.parametrize("name", SWEEP_NAMES)
@pytest.mark.parametrize("key", ["name=mine", "hydra.sweep.dir=outputs/mine"])
def test_a_sweeps_folder(cli, name, key):
    """What a sweep and its report write: refused where it is not a sweep's, and other files stay."""
    put("outputs/mine", name, "thesis.tex")
    refused(cli, (*SWEEP, key), "outputs/mine", name)
    refused(cli, (*SWEEP, key, "rerun=true"), "outputs/mine", name)


@pytest.mark.parametrize("name", ["results.csv", "plan.json", "mean", "report.html"])
def test_links_in_a_sweeps_folder(cli, name):
    """Likewise for links."""
    put("elsewhere", "file")
    Path("outputs/mine").mkdir(parents=True)
    target = Path("elsewhere" if name == "mean" else "elsewhere/file")
    Path("outputs/mine", name).symlink_to(target.resolve())
    refused(cli, (*SWEEP, "name=mine"), "outputs/mine", name)


PLANS = ['{"plans": [1]}', '{"plans": [{"command": "x", "runs": [{"run": "here"}]}]}', "[]", "to the sea"]


@pytest.mark.parametrize("content", PLANS)
def test_plans_of_other_programs(cli, content):
    """Also such that look a little like ours."""
    put("outputs/mine", "plan.json", content=content)
    put("outputs/mine", "x/result.json", content='{"accuracy": 1}')
    before = tree(".")
    code, _, err = cli(*SWEEP, "name=mine")
    assert code == 2 and "plan.json: no plan of the runner" in err.splitlines()[-1] and tree(".") == before


def test_a_table_that_begins_like_ours(cli):
    """`run,status` alone makes no table of ours, where no run and no report of ours is beside it."""
    put("outputs/mine", "results.csv", content="run,status\n1,good\n")
    refused(cli, (*SWEEP, "name=mine"), "outputs/mine", "results.csv")


def test_a_subfolder_of_the_users(cli):
    """`hydra.sweep.subdir` names folders with the user's files in them."""
    put("outputs/mine/0", "metrics.csv")
    put("outputs/mine/1", "thesis.tex")
    words = (*SWEEP, "name=mine", "hydra.sweep.subdir=${seed}")
    refused(cli, (*words, "rerun=true"), "outputs/mine/0", "metrics.csv")
    Path("outputs/mine/0/metrics.csv").rename("outputs/mine/0/mine.csv")
    assert cli(*words)[0] == 0 and cli(*words, "rerun=true")[0] == 0
    assert Path("outputs/mine/1/thesis.tex").read_text() == Path("outputs/mine/0/mine.csv").read_text() == MINE
    put("outputs/mine", "2")
    before = tree(".")
    code, _, err = cli("-m", *QUICK, "seed=1,2", "name=mine", "hydra.sweep.subdir=${seed}")
    assert code == 2 and "outputs/mine/2: is no folder" in err and tree(".") == before


def test_a_damaged_result_of_a_planned_run(cli):
    """In a subfolder of the user's naming the plan says that it is a run's: it is done again, as promised."""
    words = (*SWEEP, "name=mine", "hydra.sweep.subdir=${seed}")
    assert cli(*words)[0] == 0
    Path("outputs/mine/0/result.json").write_text("{")
    assert cli(*words)[0] == 0
    assert {r["status"] for r in results_of(Path("outputs/mine")).values()} == {"done"}


def test_a_run_that_was_killed_before_its_result_goes_on(cli):
    """Its lock says whose the folder is."""
    assert cli(*QUICK, "hydra.run.dir=mine")[0] == 0
    Path("mine/result.json").unlink()
    gone = {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "x"}
    Path("mine/lock.json").write_text(json.dumps(gone))
    os.utime("mine/lock.json", (0, 0))
    code, _, err = cli(*QUICK, "hydra.run.dir=mine")
    assert code == 0, err


def test_means_beside_the_users(cli):
    """`mean/` of a sweep: event files of others in it stay."""
    words = ("-m", *QUICK, "seed=0,1", "optimizer=sgd,adam", "name=mine")
    assert cli(*words)[0] == 0 and len(list(Path("outputs/mine/mean").glob("[!.]*/"))) == 2
    theirs = [f"outputs/mine/mean/{name}/events.out.tfevents.1.host.7.0" for name in ("theirs", "optimizer=sgd")]
    put(".", *theirs)
    write_report(Path("outputs/mine"))
    assert [Path(name).read_text() for name in theirs] == [MINE, MINE]


def test_a_tracker_leaves_event_files_of_others(tmp_path):
    """From the beginning, and where a run goes on."""
    put(tmp_path, "events.out.tfevents.1700000000.host.77.0", "mine.tfevents", "end.tfevents")
    for step in (None, 3, None):
        Tracker(tmp_path, step).close("done")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"events.out.tfevents.1700000000.host.77.0", "mine.tfevents", "end.tfevents"} < names and len(names) == 5


def test_pictures_of_surfaces_are_not_replaced(cli):
    """A picture of the user's beside the report has its name; ours takes another, and keeps it."""
    put("outputs/mine", "surface_ravine.png")
    for _ in range(2):
        assert cli("task=surface", "surface=ravine", "task.steps=3", "threads=1", "name=mine", "rerun=true")[0] == 0
    assert Path("outputs/mine/surface_ravine.png").read_text() == MINE
    names = {path.name for path in Path("outputs/mine").glob("*.png")}
    assert names == {"surface_ravine.png", "surface_ravine_2.png"}


def test_a_report_asked_for_later(cli):
    """`python -m runner.report` in a folder whose table is another program's."""
    assert cli(*QUICK, "name=mine")[0] == 0
    put("outputs/mine", "report.html")
    with pytest.raises(ConfigError, match=r"report.html is another program's: choose another folder"):
        write_report(Path("outputs/mine"))
    assert Path("outputs/mine/report.html").read_text() == MINE


def test_a_search_beside_a_database_of_the_users(cli):
    """A database without a study in it is left as it is."""
    Path("outputs/mine").mkdir(parents=True)
    with sqlite3.connect("outputs/mine/study.db") as database:
        database.execute("CREATE TABLE patients (name TEXT)")
    database.close()
    words = ("-m", *QUICK, "hydra/sweeper=search", "optimizer.lr=interval(0.01,0.1)", "hydra.sweeper.n_trials=2")
    refused(cli, (*words, "name=mine"), "outputs/mine", "study.db")


def test_a_refused_command_takes_back_what_it_made_alone(cli):
    """The folder of a search that is refused after it was made: what somebody put there meanwhile stays."""
    from runner.sweep.plan.folder import sweep_folder

    def begin(*names):
        with sweep_folder(Path("a/b"), "study.db"):
            put("a/b", "study.db", *names)
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        begin()
    assert not Path("a").exists()
    with pytest.raises(ConfigError):
        begin(".mine")
    assert tree("a") == {"a/b/.mine": MINE.encode()}


def test_a_result_cannot_name_files_elsewhere(tmp_path):
    """`files` of a stranger's result: names that no run writes are not removed."""
    put(tmp_path, "thesis.tex", "run/thesis.tex", "run/metrics.csv")
    result = {"status": "done", "fingerprint": "a", "training": "a"}
    result["files"] = ["../thesis.tex", "thesis.tex", str(tmp_path / "thesis.tex"), "metrics.csv"]
    (tmp_path / "run/result.json").write_text(json.dumps(result))
    clear_run(tmp_path / "run", "a", owned.run_files("run", ".hydra"))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")} == {
        *("thesis.tex", "run/thesis.tex", "run/result.json")
    }
