"""Folders of runs: a sweep is one folder, its runs may nest, and a run that has a folder keeps it."""

import uuid
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from runner.compare.__main__ import main as compare
from runner.report.__main__ import main as report
from runner.sweep.__main__ import main as status
from runner.sweep.plan import plan_file
from tests.shared.folders import HERE, SMALL, TIME, experiment, rows, runs

# -- one folder a command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["typed", "file", "name", "resolver", "search", "environment"])
def test_a_sweep_has_one_folder_whatever_its_name_is_made_of(cli, way, monkeypatch):
    """The clock, and a resolver that never says the same twice, are asked once a command: one table has all runs."""
    OmegaConf.register_new_resolver("another", lambda: uuid.uuid4().hex, replace=True)
    monkeypatch.setenv("PLACE", "here")
    words = {
        "typed": ("seed=0,1,2", f"hydra.sweep.dir=all/{TIME}"),
        "file": ("seed=0,1,2", *experiment(f"hydra:\n  sweep:\n    dir: all/{TIME}")),
        "name": ("seed=0,1,2", f"name={TIME}"),
        "resolver": ("seed=0,1,2", "hydra.sweep.dir='all/${another:}/${hydra:job.name}'"),
        "search": (
            "hydra/sweeper=search",
            "batch_size=16,32,64",
            "hydra.sweeper.n_trials=3",
            f"hydra.sweep.dir=all/{TIME}/x",
        ),
        "environment": ("seed=0,1,2", "hydra.sweep.dir=all/${oc.env:PLACE}"),
    }[way]
    if way == "search":
        pytest.importorskip("optuna")
        words += ("hydra.sweeper.sampler=grid",)
    code, _, err = cli("-m", *HERE, *words)
    assert (code, err) == (0, "")
    (table,) = Path().rglob("results.csv")
    assert len(rows(table.parent)) == 3 and len(runs(table.parent)) == 3


@pytest.mark.parametrize(
    "folder",
    ["x/${seed}", "x/${hydra.job.num}", "x/${hydra:job.id}", "x/${oc.select:seed}", "${hydra.run.dir}"]
    + ["x/${oc.decode:'${seed}'}/${now:%f}", "x/${hydra.job.override_dirname}"],
)
def test_a_sweeps_folder_that_differs_between_runs_is_refused(cli, folder):
    """One line says where the key belongs; nothing is made."""
    code, _, err = cli("-m", *HERE, "seed=0,1", f'hydra.sweep.dir="{folder}"')
    assert code == 2 and err.startswith("runner: hydra.sweep.dir differs between runs (") and err.count("\n") == 1
    assert "hydra.sweep.subdir" in err and not Path("x").exists() and not Path("outputs").exists()


def test_experiments_of_different_names_are_refused_without_one_name_for_all(cli):
    """Their runs would be two sweeps."""
    experiment("")
    for name, size in (("a", 16), ("b", 32)):
        Path(f"own/experiment/{name}.yaml").write_text(f"# @package _global_\nname: {name}\nbatch_size: {size}\n")
    words = ("-m", *HERE, "--config-dir", "own", "experiment=a,b", "sweep.repeat=2")
    code, _, err = cli(*words)
    assert code == 2 and "(outputs/a, outputs/b)" in err and "name=" in err and not Path("outputs").exists()


def test_one_folder_under_many_spellings(cli, monkeypatch):
    """Links, dots, slashes, the home folder and whole paths name the folder that they name: the runs are found."""
    monkeypatch.setenv("HOME", str(Path.cwd() / "home"))
    Path("home/real").mkdir(parents=True)
    Path("link").symlink_to("home/real")
    words = ("-m", *HERE, "seed=0,1")
    assert cli(*words, "hydra.sweep.dir=link/")[0] == 0
    for spelling in ("home/real", "./home/./real/", "home/../home/real", str(Path.cwd() / "home/real"), "'~/real'"):
        code, out, err = cli(*words, f"hydra.sweep.dir={spelling}")
        assert (code, err) == (0, "") and "nothing was left to do" in out, spelling
    assert {path.name for path in Path().iterdir()} == {"home", "link"} and len(runs("home/real")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "hydra.sweep.subdir=../x${seed}"], "must name a folder below hydra.sweep.dir"),
        (["-m", "hydra.sweep.subdir=/x/${seed}"], "must name a folder below hydra.sweep.dir"),
        (["-m", "hydra.sweep.subdir='.'"], "must name a folder below hydra.sweep.dir"),
        (["-m", "hydra.sweep.subdir=''"], "must name a folder below hydra.sweep.dir"),
        (["-m", "hydra.sweep.subdir=.x/${seed}"], "'.x' would be hidden"),
        (["-m", "hydra.sweep.subdir=mean/${seed}"], "'mean' in a sweep's folder is its own"),
        (["-m", f"hydra.sweep.subdir={'x' * 300}"], "longer than 255 bytes"),
        (["-m", "hydra.sweep.subdir=x/${oc.select:none,x}"], "several runs would share this folder"),
        (["-m", "hydra.sweep.dir='~nobody-is-called-so/x'"], "hydra.sweep.dir=~nobody"),
        (["-m", "hydra.sweep.dir=${hydra.sweep.dir}/x"], "Recursive interpolation"),
        (["-m", "hydra.run.dir=x"], "hydra.run.dir=x: is a lone run's folder; with -m type hydra.sweep.dir="),
        (["-m", "hydra.job.num=3"], "each run has its own hydra.job.num"),
        (["-m", "model.hidden=['${hydra:job.id}']"], "${hydra:job.id}: is made of the run's config"),
        (["-m", "hydra.sweep.subdir=file/${seed}"], "file is no folder"),
    ],
)
def test_folders_that_cannot_be_are_refused_in_a_line(cli, words, message):
    """Before anything starts, with exit code 2."""
    Path("outputs/runs").mkdir(parents=True)
    Path("outputs/runs/file").touch()
    code, _, err = cli(*SMALL, *words, "seed=0,1")
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert [path.name for path in Path("outputs/runs").iterdir()] == ["file"]


def test_a_sweeps_key_without_several_runs_is_refused(cli):
    """It would be taken and ignored."""
    code, _, err = cli(*SMALL, "hydra.sweep.dir=x")
    assert code == 2 and "hydra.sweep.dir=x: is about several runs: add -m" in err and "hydra.run.dir=" in err


# -- runs that nest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subdir", ["seed${seed}/${hydra.job.id}", "${optimizer.lr}/x/s${seed}"])
def test_runs_below_a_sweeps_folder_may_nest(cli, capfd, subdir):
    """Table, report and plan lie in the sweep's folder; the same command does nothing, a longer one the rest; status,
    report and compare see every run."""
    words = ("-m", *HERE, f"hydra.sweep.subdir={subdir}", "name=nest")
    assert cli(*words, "seed=0,1")[0] == 0
    assert "nothing was left to do" in cli(*words, "seed=0,1")[1]
    code, out, _ = cli(*words, "seed=0,1,2")
    assert code == 0 and "2 of 3 runs done already" in out
    top = Path("outputs/nest")
    assert {"results.csv", "report.html", "plan.json"} <= {path.name for path in top.iterdir()}
    assert sorted(row["run"] for row in rows(top)) == sorted(runs(top)) and len(rows(top)) == 3
    assert not list(top.glob("*/**/results.csv")) and not list(top.rglob("lock.json"))
    assert all(result["run"] == name for name, result in runs(top).items())
    assert {run["run"] for plan in plan_file.read(top) for run in plan["runs"]} == set(runs(top))
    Path(top, "results.csv").unlink()
    assert report([str(top)]) == 0 and len(rows(top)) == 3
    assert report(["outputs"]) == 2 and capfd.readouterr()[1].strip().endswith("look into outputs/nest")
    assert status(["status", str(top)]) == 0 and "3 runs in outputs/nest: 3 done" in capfd.readouterr()[0]
    assert cli("-m", *HERE, "seed=0,1", "name=flat")[0] == 0
    assert compare(["outputs/flat", str(top)]) == 0 and "Over 1 combination" in capfd.readouterr()[0]


def test_a_nested_run_that_failed_or_is_damaged_stays_in_the_table(cli):
    """A result that cannot be read is a row that says so; a file of another program's is none."""
    words = ("-m", *HERE, "seed=0,1", "hydra.sweep.subdir=s${seed}/r", "name=nest")
    assert cli(*words)[0] == 0
    Path("outputs/nest/s0/r/result.json").write_text("{")
    Path("outputs/nest/data/deep").mkdir(parents=True)
    Path("outputs/nest/data/deep/result.json").write_text('{"score": 1}')
    assert report(["outputs/nest"]) == 0
    assert {row["run"]: row["status"] for row in rows("outputs/nest")} == {"s0/r": "failed", "s1/r": "done"}
    assert cli(*words)[0] == 0 and {row["status"] for row in rows("outputs/nest")} == {"done"}


def test_a_sweep_in_another_ones_folder_is_its_own(cli, capfd):
    """`name=a`, `name=a/b` and `name=a/mean`: each has its runs in its table, and loses none of its curves."""
    words = ("-m", *[word for word in HERE if "tensorboard" not in word])
    assert cli(*words, "seed=0,1", "name=a")[0] == 0
    assert cli(*words, "seed=0,1,2", "name=a/b")[0] == 0
    assert cli(*words, "seed=3,4", "name=a/mean")[0] == 0
    assert report(["outputs/a", "outputs/a/b"]) == 0
    assert [len(rows(f"outputs/{name}")) for name in ("a", "a/b", "a/mean")] == [2, 3, 2]
    assert all(any(Path("outputs/a", name).glob("*tfevents*")) for name in runs("outputs/a"))
    capfd.readouterr()
    assert status(["status", "outputs/a"]) == 0 and "2 runs in outputs/a" in capfd.readouterr()[0]
    assert "nothing was left to do" in cli(*words, "seed=0,1", "name=a")[1]


def test_a_run_in_another_runs_folder_is_refused(cli):
    """Within a command, and beside a run that is there."""
    code, _, err = cli("-m", *HERE, "batch_size=32,64", "hydra.sweep.subdir=${batch_size}", "name=in")
    assert (code, err) == (0, "")
    words = ("-m", *HERE, "batch_size=32", "seed=1,2", "hydra.sweep.subdir=${batch_size}/${seed}", "name=in")
    code, _, err = cli(*words)
    assert code == 2 and "would lie in another run's folder, outputs/in/32" in err and len(runs("outputs/in")) == 2


def test_a_lone_run_below_a_sweeps_folder_counts_there(cli):
    """`hydra.run.dir` may nest as well; its table is the sweep's."""
    words = (*HERE, "hydra.run.dir=outputs/${name}/seed${seed}/${hydra.job.id}", "name=lone")
    assert cli(*words)[0] == 0
    assert "1 of 1 run done already" in cli(*words)[1]
    assert len(rows("outputs/lone")) == 1 and next(iter(runs("outputs/lone"))).startswith("seed0/")


def test_a_lone_run_at_a_time_of_its_own_is_a_new_run(cli):
    """As in Hydra, the clock in `hydra.run.dir` begins a run anew; its folder, typed, goes on with it."""
    assert cli(*SMALL, f"hydra.run.dir=at/{TIME}")[0] == cli(*SMALL, f"hydra.run.dir=at/{TIME}")[0] == 0
    first, second = sorted(Path("at").iterdir())
    assert "1 of 1 run done already" in cli(*SMALL, f"hydra.run.dir={first}")[1]
    assert len(runs("at")) == 2 and Path(second, "report.html").exists()
