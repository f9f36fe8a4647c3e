"""What was written against the old places of modules works: extensions, folders, typed `_target_`s."""

import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import runner
from runner.core.moved import MOVED
from tests.shared.results import results_of

EXTENSION = """
from runner.augmentation.base import Transform
from runner.data import digits
from runner.data.prepare import prepare
from runner.errors import ConfigError
from runner.evaluation.base import Evaluation
from runner.load import load
from runner.model.fitted import Fitted
from runner.model.stages import Stage, stages
from runner.noise import Noise
from runner.regularization.base import Item
from runner.report import write_report, write_results
from runner.schedule.base import Schedule
from runner.schema import Fraction
from runner.tracking.events import Tracker
from runner.tracking.pictures import batch_grid, confusion_matrix


class Half(Schedule):
    def __init__(self, timeline, warmup=0, floor=0.0, share: Fraction = 0.5):
        super().__init__(timeline, warmup, floor)
        self.share = share
        if share == 1:
            raise ConfigError("schedule.share=1: nothing is left")

    def decay(self, step):
        return 1.0 if step < self.timeline.steps * self.share else 0.5
"""
SMALL = ("model=mlp", "data.limit=200", "batch_size=32", "epochs=2", "threads=1", "log.images=0")


def test_an_extension_of_before_runs_and_is_told(tmp_path):
    """In a process of its own, with every import that the docs showed; a warning names the new place."""
    (tmp_path / "mine.py").write_text(EXTENSION)
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    file = tmp_path / "conf" / "schedule" / "half.yaml"
    file.write_text("_target_: mine.Half\nwarmup: 0\nfloor: 0.0\nshare: 0.5\n")
    command = [sys.executable, "-m", "runner", "--config-dir", "conf", "schedule=half", "trust=[mine]", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "runner.errors is now runner.core.errors" in done.stderr
    refused = subprocess.run([*command, "schedule.share=1"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2 and "schedule.share=1: nothing is left" in refused.stderr


@pytest.mark.parametrize("old", MOVED)
def test_old_names_lead_to_the_same_things(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(FutureWarning, match=f"{old} is now {MOVED[old]}; the old name works for one more version"):
        module = import_module(old)
    new = import_module(MOVED[old])
    names = [name for name in vars(new) if not name.startswith("__")]
    assert names and all(getattr(module, name) is getattr(new, name) for name in names)
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018
    if old == "runner.load":  # the module is an attribute of the package from now on, where `load` is a function
        assert runner.load is module and callable(module)


@pytest.fixture(autouse=True)
def _fresh():
    """No test leaves an old name as an attribute of the package."""
    yield
    vars(runner).pop("load", None)


def test_public_names_are_there_without_torch():
    code = "import sys, runner; assert 'torch' not in sys.modules; from runner import " + ", ".join(runner.PUBLIC)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with pytest.raises(ImportError, match="no_such_name"):
        from runner import no_such_name  # noqa: F401
    from runner.build.load import load

    assert runner.load is load


def test_a_sweep_of_before_is_resumed_extended_and_reported(cli, monkeypatch):
    """Its files name `runner.run.Train`; the fingerprints are those of today."""
    assert cli("-m", *SMALL, "seed=0,1", "name=s")[0] == 0
    for path in (path for path in Path("outputs/s").rglob("*") if path.suffix in (".json", ".yaml")):
        path.write_text(path.read_text().replace("runner.task.train.Train", "runner.run.Train"))
    assert "runner.run.Train" in Path("outputs/s/plan.json").read_text()
    code, out, _ = cli("-m", *SMALL, "seed=0,1", "name=s")
    assert code == 0 and "nothing was left to do" in out
    (lost,) = Path("outputs/s").glob("seed=0*")
    shutil.rmtree(lost)
    assert cli("-m", *SMALL, "seed=0,1,2", "name=s")[0] == 0
    assert len(results_of(Path("outputs/s"))) == 3 and len(list(Path("outputs/s").glob("seed=*"))) == 3
    assert "3 runs" in Path("outputs/s/report.html").read_text()


@pytest.mark.filterwarnings("ignore:runner.run is now:FutureWarning")
def test_a_typed_old_target_is_the_same_run(cli):
    assert cli(*SMALL, "name=s")[0] == 0
    code, out, err = cli(*SMALL, "name=s", "task._target_=runner.run.Train")
    assert code == 0 and "1 of 1 run done already" in out, err
