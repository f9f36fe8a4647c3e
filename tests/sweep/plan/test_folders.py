"""Where runs lie: a sweep is one folder, its runs may nest, and a run that has a folder keeps it."""

import csv
import importlib.util
import json
import shlex
import uuid
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from runner.__main__ import main
from runner.compare.__main__ import main as compare
from runner.report.__main__ import main as report
from runner.sweep.__main__ import main as status
from runner.sweep.compose.compose import Base, Composed, active_config, override_dirname
from runner.sweep.compose.explain import CONF
from runner.sweep.plan import plan_file
from runner.sweep.plan.layout import run_folder
from tests.shared.paths import ROOT

SMALL = ("model=mlp", "epochs=1", "data.limit=100", "log.tensorboard=false", "log.images=0")
HERE = (*SMALL, "hydra.launcher.workers=0")
TIME = "${now:%H-%M-%S-%f}"  # to the microsecond: no two readings of the clock agree
NUMBER = "hydra.sweep.subdir=${hydra.job.num}"


def runs(sweep: str | Path) -> dict[str, dict]:
    """All results below a folder, by their path in it."""
    files = {path.parent.relative_to(sweep).as_posix(): path for path in Path(sweep).rglob("result.json")}
    return {name: json.loads(path.read_text()) for name, path in sorted(files.items())}


def seeds(sweep: str | Path) -> dict[str, int]:
    return {name: result["swept"]["seed"] for name, result in runs(sweep).items()}


def rows(sweep: str | Path) -> list[dict[str, str]]:
    with Path(sweep, "results.csv").open() as file:
        return list(csv.DictReader(file))


def experiment(text: str) -> tuple[str, ...]:
    """The words that bring an experiment with that text for Hydra."""
    Path("own/experiment").mkdir(parents=True, exist_ok=True)
    Path("own/experiment/mine.yaml").write_text(f"# @package _global_\n{text}\n")
    return "--config-dir", "own", "experiment=mine"


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


# -- Hydra's words ----------------------------------------------------------------------------------------------------


def test_a_runs_number_is_its_place_in_the_plan_and_stays(cli):
    """Resumed, extended, in another order and without plan.json, every run keeps its folder, and a new one has none of
    another run's."""
    words = ("-m", *HERE, NUMBER, "name=n")
    assert cli(*words, "seed=5,6")[0] == 0 and seeds("outputs/n") == {"0": 5, "1": 6}
    assert "nothing was left to do" in cli(*words, "seed=5,6")[1]
    assert cli(*words, "seed=7,6,5,8")[0] == 0
    assert seeds("outputs/n") == {"0": 5, "1": 6, "2": 7, "3": 8}
    Path("outputs/n/plan.json").unlink()
    assert cli(*words, "seed=9,8")[0] == 0
    assert seeds("outputs/n") == {"0": 5, "1": 6, "2": 7, "3": 8, "4": 9}
    assert [result["number"] for result in runs("outputs/n").values()] == [0, 1, 2, 3, 4]


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_sweep_at_a_time_goes_on_in_its_folder(cli, monkeypatch):
    """The message says how: the time names another folder now."""
    with monkeypatch.context() as patch:
        patch.setattr("runner.sweep.run.launch.Scheduler", stop)
        code, _, err = cli("-m", *HERE, "seed=0,1", f"hydra.sweep.dir=at/{TIME}")
    assert code == 130 and "(with the folder's name typed in place of ${now:...}" in err
    (folder,) = Path("at").iterdir()
    assert cli("-m", *HERE, "seed=0,1", f"hydra.sweep.dir={folder}")[0] == 0
    assert len(rows(folder)) == 2 and list(Path("at").iterdir()) == [folder]


def test_two_commands_at_once_give_no_number_twice(cli, monkeypatch):
    """What another command has planned since is seen before the first run begins."""
    words = ("-m", *HERE, NUMBER, "name=n")
    with monkeypatch.context() as patch:
        patch.setattr("runner.sweep.run.launch.Scheduler", stop)
        assert cli(*words, "seed=0,1")[0] == 130 and Path("outputs/n/plan.json").exists()
    numbers, asked = plan_file.numbers, []

    def late(folder: Path) -> dict[str, int]:
        asked.append(folder)
        return numbers(folder) if len(asked) > 1 else {}  # planned before the other one had written

    with monkeypatch.context() as patch:
        patch.setattr("runner.sweep.plan.plan_file.numbers", late)
        assert cli(*words, "seed=2,3")[0] == 0
    assert seeds("outputs/n") == {"2": 2, "3": 3}
    assert cli(*words, "seed=0,1")[0] == 0 and seeds("outputs/n") == {"0": 0, "1": 1, "2": 2, "3": 3}


def test_a_folder_that_another_command_took_meanwhile_is_refused(cli, monkeypatch):
    """Its result is not taken for the own one, and not written over."""
    words = ("-m", *HERE, "seed=0,1", "hydra.sweep.subdir=s${seed}", "name=both")
    assert cli(*words, "optimizer.lr=0.01")[0] == 0
    before = runs("outputs/both")
    monkeypatch.setattr("runner.sweep.plan.planner.read", lambda folder: None)
    code, _, err = cli(*words, "optimizer.lr=0.02")
    assert code == 2 and "outputs/both/s0 holds another command's run" in err and runs("outputs/both") == before


LAUNCHERS = {
    "here": ("hydra.launcher.workers=0",),
    "workers": ("hydra.launcher.workers=2",),
    "slurm": ("hydra/launcher=slurm", "hydra.launcher.executor=local"),
}


@pytest.mark.parametrize("launcher", ["here", "workers", pytest.param("slurm", marks=pytest.mark.slow)])
def test_hydras_words_are_each_runs_own(cli, launcher, monkeypatch):
    """Number, choices and the run's own keys in folders, in the environment and in the config, whoever does the run."""
    if launcher == "slurm" and importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the runner is not installed
    words = ("-m", *SMALL, *LAUNCHERS[launcher], "optimizer=sgd,adam", "seed=${hydra:job.num}", "name=h")
    words += ("model=custom", "model._target_=tests.shared.faults.Told", "trust=[tests]")
    words += ("hydra.sweep.subdir=${hydra:runtime.choices.optimizer}-${hydra.job.num}",)
    words += ("+hydra.job.env_set.TOLD=${hydra:job.num}-${seed}-${hydra.runtime.choices.optimizer}",)
    code, _, err = cli(*[word for word in words if word != "model=mlp"])
    assert (code, err) == (0, "")
    assert set(runs("outputs/h")) == {"sgd-0", "adam-1"}
    assert Path("told.txt").exists() and set(Path("told.txt").read_text().split()) == {"0-0-sgd", "1-1-adam"}
    assert {name: result["data"]["train"] > 0 for name, result in runs("outputs/h").items()}


def test_hydras_words_in_a_lone_run(cli):
    """A lone run is number 0; what a job's log is called may name the run's own keys."""
    words = ("hydra.run.dir=${hydra:runtime.choices.optimizer}/${hydra.job.num}", "seed=4")
    words += ("+hydra.job.env_set.X=${hydra:job.num}${seed}", "hydra.job_logging.handlers.file.filename=log-${seed}")
    code, _, err = cli(*SMALL, *words)
    assert (code, err) == (0, "") and set(runs("adam")) == {"0"} and Path("log-4").exists()
    assert "1 of 1 run done already" in cli(*SMALL, *words)[1]


def test_a_searchs_numbers_are_its_trials(cli):
    """Beside runs of another command, and when the search goes on, no folder is given twice."""
    pytest.importorskip("optuna")
    assert cli("-m", *HERE, NUMBER, "seed=0,1", "name=s")[0] == 0
    words = ("-m", *HERE, "hydra/sweeper=search", "optimizer.lr=interval(0.01,0.02)", NUMBER, "name=s")
    assert cli(*words, "hydra.sweeper.n_trials=2")[0] == 0
    first = runs("outputs/s")
    assert cli(*words, "hydra.sweeper.n_trials=4")[0] == 0
    assert set(runs("outputs/s")) == set("012345") and first.items() <= runs("outputs/s").items()
    assert [result["number"] for result in runs("outputs/s").values()] == list(range(6)) and len(rows("outputs/s")) == 6


DIRNAMES = [
    {},
    {"item_sep": "+", "kv_sep": "-"},
    {"exclude_keys": ["epochs", "optimizer", "model.hidden"]},
    {"item_sep": "=", "kv_sep": ":", "exclude_keys": ["seed"]},
]


@pytest.mark.parametrize("settings", DIRNAMES)
def test_override_dirname_is_hydras(settings):
    """Against what Hydra itself makes of the same words."""
    words = [
        "seed=3",
        "optimizer=sgd",
        "epochs=1",
        "+extra.note='a=b'",
        "model.hidden=[4,5]",
        "~oom",
        "name=x/y",
    ]
    prefix = "hydra.job.config.override_dirname."
    typed = [f"{prefix}{key}={json.dumps(value)}" for key, value in settings.items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*words, "model=mlp", *typed], return_hydra_config=True)
    chosen = OmegaConf.to_container(config.hydra.job.config.override_dirname)
    assert override_dirname([*words, "model=mlp"], **chosen) == config.hydra.job.override_dirname


def test_override_dirname_names_folders(cli):
    """exclude_keys, item_sep and kv_sep are obeyed, and the folders are found again."""
    left_out = "model,epochs,data.limit,log.tensorboard,log.images,name"
    words = ("-m", *HERE, "seed=0,1", "optimizer=sgd", "hydra.sweep.subdir=${hydra.job.override_dirname}", "name=o")
    words += (f"hydra.job.config.override_dirname.exclude_keys=[{left_out}]",)
    words += ("hydra.job.config.override_dirname.item_sep=__", "hydra.job.config.override_dirname.kv_sep='-'")
    assert cli(*words)[0] == 0 and set(runs("outputs/o")) == {"optimizer-sgd__seed-0", "optimizer-sgd__seed-1"}
    assert "nothing was left to do" in cli(*words)[1]


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "seed=0,1", NUMBER, "+hydra.job.env_set.X=${hydra:job.num}", "optimizer.betas=[0.8, 0.9]"),
        ("seed=1", "hydra.run.dir='x y/${hydra:runtime.choices.optimizer} $1'"),
        ("--config-dir", "own", "experiment=mine", "-m", "sweep.exclude=seed=0 & batch_size>40", "batch_size=32,64"),
    ],
)
def test_the_recorded_command_is_the_one_that_was_typed(cli, words):
    """Pasted into a shell it finds its own runs, done; the report shows it."""
    experiment("hydra:\n  sweeper:\n    params:\n      seed: 0,1")
    typed = ("hydra.launcher.workers=0", *SMALL, *words)
    assert main(list(typed)) == 0
    commands = {json.loads(path.read_text())["command"] for path in Path().rglob("result.json")}
    (line,) = commands
    python, option, module, *argv = shlex.split(line)
    assert (python, option, module) == ("python", "-m", "runner") and argv == list(typed)
    code, out, err = cli(*argv)
    assert code == 0 and ("nothing was left to do" in out or "1 of 1 run done already" in out), out + err


TEXTS = [
    "${seed}",
    "a${optimizer.lr}b",
    "${name}/${hydra.job.num}",
    "${hydra:job.name}-${hydra:job.id}",
    "${flag}${none}",
]
TEXTS += ["${hydra.sweep.dir}/x", "${oc.select:seed}", "${oc.select:hydra.job.num}", r"\${seed}", "${model.hidden}"]
TEXTS += ["${model.hidden[1]}", "${optimizer[lr]}", "${hydra:runtime.choices.optimizer}", "${oc.decode:'${seed}'}"]
TEXTS += ["${oc.select:nope,${seed}}", "${hydra.run.dir}", "plain", "${hydra.job.override_dirname}", "${my-key}"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_folders_text_is_read_as_omegaconf_reads_it(text, tmp_path):
    """Values put into the text without OmegaConf are those that it puts there itself."""
    setup_globals()
    settings = {"exclude_keys": [], "item_sep": ",", "kv_sep": "="}
    parts = {"sweep": {"dir": "out/${name}", "subdir": text}, "run": {"dir": "lone/${seed}"}}
    parts |= {"job": {"name": "run", "id": "???", "num": "???"}, "runtime": {"choices": {"optimizer": "adam"}}}
    parts |= {"overrides": {"task": []}}
    config = {"seed": 3, "name": "n", "flag": True, "none": None, "optimizer": {"lr": 1e-05}, "my-key": 1}
    config |= {"model": {"hidden": [4, 5]}}
    composed = Composed(config, ["seed=3", "name=n"], Base(OmegaConf.create({"hydra": parts}), settings), {})
    whole = OmegaConf.merge(composed.hydra("id-1", 7).node(), config)
    with active_config(whole):
        expected = str(whole.hydra.sweep.subdir)
    assert run_folder(composed, "id-1", 7, tmp_path) == tmp_path / expected
