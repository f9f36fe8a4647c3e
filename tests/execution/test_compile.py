"""`compile=auto`: who is compiled, what the trial finds, and that a run keeps to it."""

import copy
import math
import os
import re
import time
from pathlib import Path

import pytest
import torch

from runner.core.devices import check_device
from runner.execution import compile as compiled
from runner.execution import decision as verdict
from runner.execution import trial as trying
from runner.execution.choose import compile as compile_trial
from runner.execution.choose.compile import choose_compile
from runner.execution.choose.lone import train_alone
from runner.execution.eager import EagerProgram
from runner.execution.fused.compatible import unfusable
from runner.execution.trial import StepResult
from runner.train.loop import step
from tests.shared.fused import SMALL_CONV, states
from tests.shared.results import results_of
from tests.shared.training import make, splits

LONG = ("epochs=60", "log.every=1000")  # 120 steps
WORDS = r"off \(gradients of a step take \S+ ms, and compiling \d+ s, against \S+ ms\)"
RICH = (*LONG, *SMALL_CONV, "regularization=[batchnorm,dropout,l2,mixup]", "augmentation=[flip]", "optimizer=adam")


@pytest.fixture
def tried(monkeypatch):
    """Every run is long enough; `tried(eager, compiled)`: the seconds that a trial measures; gives what it makes."""
    made = []

    def given(plain, quick, network=lambda model: torch.compile(model, backend="eager")):
        monkeypatch.setattr(compile_trial, "LEAST", {"cpu": 0.0})
        monkeypatch.setattr(compile_trial, "compiled", lambda model: made.append(network(model)) or made[-1])
        seconds = iter([plain, quick] * 9)
        monkeypatch.setattr(trying, "fastest", lambda work, device: (work(), next(seconds))[1])
        return made

    return given


def whole(run):
    """A run without validation."""
    run.val_split = None
    run.train_mode()
    return run


def test_a_trial_leaves_no_trace(tried):
    """A run whose network was compiled and found slower goes on bit for bit as one that had no trial."""
    tried(0.001, 0.001)
    data = splits(train=64, side=16)
    plain, other = (whole(make(*RICH, data=data)) for _ in range(2))
    choose_compile(other, None)
    assert other.compiled is False and other.forward is other.model and other.meter.losses == []
    assert re.fullmatch(WORDS, other.chosen["compile"])
    for run in (plain, other):
        for _ in range(5):
            step([run], EagerProgram())
    assert plain.state_dict()["generators"].keys() == other.state_dict()["generators"].keys()
    for name, value in states([plain])[0].items():
        assert torch.equal(value, states([other])[0][name]), name


def test_what_is_faster_is_kept_and_goes_on(tried):
    """The word stands in the checkpoint: a run that goes on has no second trial, whichever way the first went."""
    made = tried(10.0, 1.0)
    run = whole(make(*LONG))
    choose_compile(run, None)
    assert run.compiled and run.forward is made[-1] and run.chosen["compile"].startswith("on (gradients of a step take")
    step([run], EagerProgram())
    assert run.state_dict()["compiled"] is True
    for found in (True, False):
        state = copy.deepcopy(run.state_dict()) | {"compiled": found}
        again = whole(make(*LONG))
        again.load_state_dict(state)
        count = len(made)
        choose_compile(again, None)
        assert (again.forward is again.model) is not found and len(made) == count + found
        assert again.chosen["compile"] == f"{'on' if found else 'off'} (as when the run began)"


def test_a_checkpoint_from_before_there_were_trials(tried):
    """Goes on uncompiled, as it began."""
    made = tried(10.0, 1.0)
    state = make(*LONG).state_dict()
    del state["compiled"]
    run = make(*LONG)
    run.load_state_dict(state)
    choose_compile(run, None)
    assert made == [] and run.forward is run.model


@pytest.mark.parametrize(
    ("eager", "steps", "on"), [(0.0011, 12000, True), (0.0011, 120, False), (0.00102, 10**9, False)]
)
def test_compiling_must_earn_its_time(tried, eager, steps, on):
    """A tenth of a millisecond at each of 120 steps is less than a tenth of a second; 2 % is none, however many."""
    tried(eager, 0.001, lambda model: time.sleep(0.1) or torch.nn.Sequential(model))
    run = make(*LONG)
    run.steps = steps
    choose_compile(run, None)
    assert run.compiled is on


class Wrong(torch.nn.Module):
    """Right answers, wrong gradients, as torch's inductor has given them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        found = self.model(x)
        return found.detach() + 2 * (found - found.detach())


class Broken(Wrong):
    def forward(self, x):
        raise RuntimeError("no kernel\nfor this")


@pytest.mark.parametrize(
    ("network", "reason"), [(Wrong, "losses are 0 off, gradients 1"), (Broken, "RuntimeError: no kernel")]
)
def test_what_the_compiler_makes_is_checked(tried, network, reason):
    """Wrong numbers and errors of the compiler are reasons to stay as it is."""
    tried(10.0, 1.0, network)
    run = make(*LONG)
    choose_compile(run, None)
    assert re.fullmatch(rf"off \({reason}\)", run.chosen["compile"]) and run.forward is run.model


@pytest.mark.parametrize(
    ("number", "agrees"), [(1.0, True), (1.0001, True), (1.1, False), (math.nan, False), (math.inf, False)]
)
def test_each_weight_counts(number, agrees):
    """A gradient that is small beside others is compared by its own size; what is no number agrees with nothing."""
    loss = torch.tensor(5.0)
    wanted = StepResult(loss, [torch.tensor([100.0, 3.0]), torch.tensor([1.0]), None])
    found = StepResult(loss, [torch.tensor([100.0, 3.0]), torch.tensor([number]), None])
    assert (found.describe_difference(wanted, torch.float32) == "") is agrees
    assert StepResult(loss, [*found.gradients[:1], None, None]).describe_difference(wanted, torch.float32) != ""


def test_one_word_for_the_runs_of_a_sweep(tried, tmp_path):
    """Runs of one program have one trial in a sweep's folder; others have their own."""
    made = tried(10.0, 1.0)
    for words in ((), ("seed=1", "optimizer=adam"), ("lr_scale=0.5",)):
        run = make(*LONG, *words)
        choose_compile(run, tmp_path)
        assert run.compiled
    assert len(made) == 4  # the trial's, and each run's
    choose_compile(make(*LONG, "model.hidden=[13]"), tmp_path)
    assert len(made) == 6 and len(list((tmp_path / ".compile").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("epochs=2",), "fewer than 100 steps: a trial would not pay"),
        (LONG, "less than 600 s of training: it would not pay"),
        ((*LONG, "optimizer=sam"), "SAM looks at the loss more than once a step"),
    ],
)
def test_who_is_never_compiled(monkeypatch, words, reason):
    """Short runs, which have no trial, and optimizers that compare losses."""
    monkeypatch.setattr(compile_trial, "compiled", None)
    run = make(*words)
    choose_compile(run, None)
    assert run.chosen["compile"] == f"off ({reason})"


def test_without_a_compiler(monkeypatch, cli):
    """`auto` stays as it is and says why, also where a run goes on; `true` is refused in a line."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = make(*LONG)
    choose_compile(run, None)
    assert run.chosen["compile"] == "off (there is no C++ compiler (no-such-compiler))"
    run.compiled = True
    choose_compile(run, None)
    assert run.forward is run.model and "no C++ compiler" in run.chosen["compile"]
    code, _, errors = cli("model=mlp", "compile=true", "device=cpu")
    assert code == 2
    assert "compile=true: there is no C++ compiler (no-such-compiler); install it, or use compile=auto" in errors


def test_auto_keeps_nobody_from_sharing_a_program():
    """Only `true` does."""
    run = make()
    assert unfusable(run.parts, run.config) == "" and run.config["compile"] == "auto"
    assert unfusable(run.parts, run.config | {"compile": True}).startswith("compile=true")


@pytest.mark.parametrize("own", [False, True])
def test_where_the_cache_lies(monkeypatch, tmp_path, own):
    """In the user's cache folder, unless the user says where."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if own:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    monkeypatch.setattr(torch, "compile", lambda model: model)
    compiled.compiled(torch.nn.Identity())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == ("/elsewhere" if own else str(tmp_path / "runner/inductor"))


@pytest.mark.filterwarnings("default")
def test_with_the_real_compiler(monkeypatch):
    """The trial's numbers are those of inductor; it takes its seconds."""
    if compiled.missing_compiler(check_device({"device": "cpu"})):
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(compile_trial, "LEAST", {"cpu": 0.0})
    run = make(*LONG)
    run.steps = 4
    monkeypatch.setattr(verdict, "LEAST", 1)
    train_alone([run])
    assert re.fullmatch(WORDS, run.chosen["compile"])


def test_a_sweep_and_its_second_command(tried, cli, monkeypatch):
    """The word stands in the sweep's folder and in each result."""
    made = tried(10.0, 1.0)
    monkeypatch.setattr(verdict, "LEAST", 1)
    words = ("-m", "model=mlp", "epochs=1", "log.tensorboard=false")
    words = (*words, "hydra.launcher.fuse=false", "hydra.launcher.workers=0")
    assert cli(*words, "seed=0,1")[0] == 0 and len(made) == 3
    for result in results_of(Path("outputs/runs")).values():
        assert result["compile"].startswith("on (gradients of a step take")
    assert len(list(Path("outputs/runs/.compile").glob("*.json"))) == 1
    assert cli(*words, "seed=0,1,2")[0] == 0 and len(made) == 4
