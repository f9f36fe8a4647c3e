"""The launchers: whoever does the runs, the ledger, the isolation and the exit codes are the same."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tests.shared.paths import ROOT
from tests.shared.results import results_of

WORDS = {
    "local": ("hydra.launcher.workers=2",),
    "ray": ("hydra/launcher=ray",),
    "slurm": ("hydra/launcher=slurm", "hydra.launcher.executor=local"),
}
PACKAGES = {"local": "pebble", "ray": "ray", "slurm": "submitit"}
SIX = (
    *("-m", "model=custom", "model._target_=tests.shared.faults.Faulty", "trust=[tests]", "epochs=1", "log.images=0"),
    *("+model.fault=none,none,none,raise,exit,memory", "seed=0,1,2,0,0,0", "sweep.zip=[model.fault,seed]"),
    *("threads=1", "log.tensorboard=false", "name=six"),
)


def statuses() -> dict[tuple[str, int], str]:
    found = results_of(Path("outputs/six")).values()
    return {(result["swept"]["model.fault"], result["swept"]["seed"]): result["status"] for result in found}


@pytest.mark.parametrize("launcher", ["local", "ray", "slurm"])
def test_runs_that_fail_cost_no_other_and_are_tried_again_alone(launcher, cli, monkeypatch):
    """Of six runs one raises, one ends its process, one has no memory: the others finish, exit code 1; the same command
    again does just those three."""
    if importlib.util.find_spec(PACKAGES[launcher]) is None:
        pytest.skip(f"{PACKAGES[launcher]} is not installed: pip install 'runner[{launcher}]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the runner is not installed
    code, out, err = cli(*SIX, *WORDS[launcher])
    good = {("none", seed): "done" for seed in (0, 1, 2)}
    assert statuses() == good | {("raise", 0): "failed", ("exit", 0): "failed", ("memory", 0): "out_of_memory"}
    assert code == 1
    results = results_of(Path("outputs/six"))
    reasons = {result["swept"]["model.fault"]: result["reason"] for result in results.values()}
    assert reasons["raise"] == "OSError: the cable is out" and "its" in reasons["exit"]
    assert not list(Path("outputs/six").glob("*/lock.json"))
    Path("healed").touch()
    code, out, err = cli(*SIX, *WORDS[launcher])
    assert (code, err) == (0, "") and set(statuses().values()) == {"done"}
    again = results_of(Path("outputs/six"))
    repeated = {
        again[name]["swept"]["model.fault"] for name in again if again[name]["started"] != results[name]["started"]
    }
    assert repeated == {"raise", "exit", "memory"} and len(again) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("hydra/launcher=ray", "hydra.launcher.workers=0"), "hydra.launcher.workers=0: must be auto, or a whole"),
        (("hydra/launcher=ray", "hydra.launcher.gpus=1.5"), "hydra.launcher.gpus=1.5: must be auto, a share below 1"),
        (("hydra/launcher=ray", "hydra.launcher.timeout=0"), "hydra.launcher.timeout=0: must be seconds above 0"),
        (
            ("hydra/launcher=slurm", "hydra.launcher.executor=pbs"),
            "hydra.launcher.executor=pbs: must be slurm or local",
        ),
        (("hydra/launcher=slurm", "hydra.launcher.jobs=0"), "hydra.launcher.jobs=0: must be auto, or a whole number"),
        (("hydra/launcher=slurm", "hydra.launcher.time=0"), "hydra.launcher.time=0: must be minutes"),
    ],
)
def test_values_that_cannot_be_are_refused_in_a_line(words, said, cli):
    """A bad value of a launcher's key is refused before anything is planned."""
    code, _, err = cli("-m", "seed=0,1", *words)
    assert code == 2 and said in err and err.count("\n") == 1 and not Path("outputs").exists()


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_without_its_package_names_the_extra(launcher, package, cli, monkeypatch):
    """Where Ray or submitit is not installed, one line says how to install it."""
    monkeypatch.setitem(sys.modules, package, None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    code, _, err = cli("-m", "seed=0,1", f"hydra/launcher={launcher}")
    assert (code, err) == (2, f"runner: hydra/launcher={launcher} needs {package}: pip install 'runner[{launcher}]'\n")


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_slurm_where_there_is_none_is_refused(cli, monkeypatch):
    """Without Slurm's commands, and for keys that only Slurm knows, one line says the way out."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, _, err = cli("-m", "seed=0,1", "hydra/launcher=slurm")
    assert code == 2 and "there is no Slurm here" in err and "executor=local" in err
    code, _, err = cli(
        "-m", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.executor=local", "hydra.launcher.mem_gb=4"
    )
    assert code == 2 and "hydra.launcher.mem_gb: only Slurm knows it" in err
