"""Hydra's words in folders: numbers, `override_dirname`, resolvers and the recorded command."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf

from runner.__main__ import main
from runner.sweep.compose.compose import Base, Composed, active_config, override_dirname
from runner.sweep.compose.explain import CONF
from runner.sweep.plan import plan_file
from runner.sweep.plan.layout import run_folder
from tests.shared.folders import HERE, SMALL, TIME, experiment, rows, runs
from tests.shared.paths import ROOT

NUMBER = "hydra.sweep.subdir=${hydra.job.num}"


def seeds(sweep: str | Path) -> dict[str, int]:
    return {name: result["swept"]["seed"] for name, result in runs(sweep).items()}


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
