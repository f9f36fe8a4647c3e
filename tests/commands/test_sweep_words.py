"""What a user types wrong in a sweep: one line with the way out, exit code 2, nothing left behind."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from runner.sweep import __main__ as command
from runner.task.training import Training
from tests.shared.plans import DRY, combinations

SEARCH = ("-m", "hydra/sweeper=search", "model=mlp")
TWO = ("-m", "optimizer=sgd,adam")
LINES = {
    "launchers and sweepers": [
        (["-m", "hydra/sweeper=basic", "seed=0,1"], "takes no plans; hydra/sweeper may be grid, search"),
        (["hydra/launcher=basic"], "takes no plans; hydra/launcher may be local, ray, slurm"),
        (["-m", "hydra/launcher=slrum"], "hydra/launcher has local, ray, slurm; did you mean 'slurm'?"),
        (["-m", "hydra.launcher.worker=2"], "hydra/launcher=local has no key 'worker'; it has workers, "),
        (["-m", "hydra.sweeper.ntrials=3"], "hydra/sweeper=grid has no key 'ntrials'; hydra/sweeper=search has"),
        (
            [*SEARCH, "+hydra.sweeper.ntrials=3"],
            "startup_trials, min_epochs, reduction_factor; did you mean 'n_trials'?",
        ),
        (["-m", "hydra.launcher.parameters.account=lab"], "hydra/launcher=slurm has 'parameters'"),
        (["-m", "+hydra.launcher.workers=1"], "is there already: type it without +"),
        (["-m", "hydra.launcher=3"], "choose with hydra/launcher=OPTION"),
        (["-m", "hydra.launcher.workers=1,2"], "type one value"),
        (["hydra/sweeper=search", "hydra.sweeper.n_trials=3"], "is about several runs: add -m"),
        (["-m", "hydra.sweep.dirr=x"], "no key 'dirr' in hydra.sweep; it has dir, subdir; did you mean 'dir'?"),
        (["-m", "hydra/sweeper=null"], "hydra/sweeper=null: a group takes the name of one of its options"),
        (["-m", "seed=0,1", "hydra.sweep.subdir=${nope}"], "hydra.sweep.subdir=${nope}: Interpolation key 'nope'"),
    ],
    "spaces": [
        ([*SEARCH, "optimizer.lr=interval(0.1)"], "optimizer.lr=interval(0.1): type interval(LOW,HIGH), with numbers"),
        ([*SEARCH, "optimizer.lr=interval(a,b)"], "type interval(LOW,HIGH), with numbers"),
        ([*SEARCH, "optimizer.lr=loguniform(1,2)"], "no function 'loguniform'; type choice(A,B,...), range("),
        ([*SEARCH, "optimizer.lr=interval(0.1,0.1)"], "both bounds are 0.1; type optimizer.lr=0.1"),
        ([*SEARCH, "optimizer.lr=interval(0.1,1),3"], "stand alone, not in a list nor beside other values"),
        (
            [*SEARCH, "optimizer.lrr=interval(1e-4,1e-1)"],
            "optimizer.lrr: no key 'lrr' in optimizer; did you mean 'lr'?",
        ),
        (
            [*SEARCH, "batch_size=tag(log,interval(16,64))"],
            "must be whole numbers; type batch_size=tag(log,int(interval(16,64)))\n",
        ),
    ],
    "words": [
        (["-m", "seed=0,1", "hydra.sweep.dir="], "hydra.sweep.dir=: must name a folder"),
        (["-m", "seed=0,1", "hydra.job.chdir=true"], "leave it out"),
        (["-m", "lr=0.1,0.2"], "no key or group 'lr'; did you mean 'optimizer.lr'?"),
        (["-m", "n_trials=2", "seed=0,1"], "did you mean 'hydra.sweeper.n_trials'?"),
        (["-m", "launcher=ray", "seed=0,1"], "did you mean 'hydra/launcher'?"),
        (["-m", "optim.lr=0.1,0.2"], "no group 'optim'"),
        (["-m", "--seed=0,1"], "--seed=0,1: no such option (python -m runner --help); keys have no dashes"),
        (["-m", "optimizer=[sgd,adam]"], "takes options without brackets, optimizer=sgd,adam"),
        (["-m", "optimizer=(sgd,adam)"], "several values are optimizer=A,B"),
        (["-m", "seed=0,,1"], "a value is missing at a comma"),
        (["-m", "optimizer.lr='0.1,0.2"], "cannot read 'optimizer.lr='0.1,0.2': quotes are not closed"),
        (["-m", "name=a=b"], "goes in quotes of its own, \"name='VALUE'\""),
        (["-m", "optimzer=sgd,adam"], "optimzer: no key or group 'optimzer'; did you mean 'optimizer'?"),
        (["-m", "optimizer.momentum=0.1,0.2"], "has no key 'momentum'; momentum, muon, nesterov, rmsprop have"),
        (["+optimizer=sgd"], "type optimizer=OPTION, without +"),
        (["-m", "seed=0,1", "sweep=3"], "sweep=3: type the keys of sweep one by one"),
    ],
    "zip and exclude": [
        ([*TWO, "sweep.zip=optimizer,seed,"], "must be a list of swept keys, sweep.zip=KEY,KEY"),
        ([*TWO, "sweep.zip={a:1}"], "must be a list of swept keys, sweep.zip=KEY,KEY"),
        ([*TWO, "sweep.zip=[[optimizer,seed],a]"], "sweep.zip=[[optimizer,seed],a]: must be a list of swept keys"),
        ([*TWO, "sweep.zip=optimizer,optimizer.lr"], "give it several values, optimizer.lr=A,B, or leave it out"),
        ([*TWO, "sweep.exclude=epochs in [1"], "the whole word in quotes: 'sweep.exclude=optimizer=sgd & "),
        ([*TWO, "sweep.exclude=optimizer=sgd and epochs=1"], "is no condition; type KEY=VALUE"),
        ([*TWO, "sweep.exclude=optimizer=sgd | optimizer=adm"], "optimizer is sgd, adam; did you mean 'adam'?"),
    ],
}


@pytest.mark.parametrize("about", LINES)
def test_slips_are_said_in_a_line_and_leave_nothing(cli, about):
    """The line names the word and the way out; no traceback, no folder."""
    for words, told in LINES[about]:
        code, out, err = cli(*words)
        assert (code, out) == (2, "") and told in err, (words, err)
        assert err.startswith("runner: ") and err.count("\n") == 1, (words, err)
        assert not Path("outputs").exists(), words


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("optimizer=sgd & optimizer.lr>0.5", ["sgd 0.1", "adam 0.1", "adam 1"]),  # in the shell's quotes alone
        ("optimizer==sgd && optimizer.lr>0.5 || optimizer=adam & optimizer.lr<0.5", ["sgd 0.1", "adam 1"]),
        ("[optimizer=sgd,optimizer.lr=1]", ["adam 0.1"]),
        ("optimizer.betas=[0.9,0.999], optimizer.lr=1", ["sgd 0.1"]),
    ],
)
def test_conditions_need_the_shells_quotes_alone(cli, text, left):
    """`|` joins alternatives, `&` binds closer; a comma outside brackets begins another condition."""
    _, out, _ = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=0.1,1", f"sweep.exclude={text}")
    assert [re.sub(r"\S+=", "", row) for row in combinations(out)] == left


def test_a_users_own_option_of_another_sweeper_is_refused(cli, tmp_path):
    """Whatever its name: before that sweeper writes its multirun.yaml."""
    (tmp_path / "mine/hydra/sweeper").mkdir(parents=True)
    (tmp_path / "mine/hydra/sweeper/my.yaml").write_text(
        "_target_: hydra._internal.core_plugins.basic_sweeper.BasicSweeper\nmax_batch_size: null\nparams: null\n"
    )
    code, _, err = cli("--config-dir", "mine", "-m", "hydra/sweeper=my", "seed=0,1")
    assert code == 2 and "takes plans: use it with hydra/sweeper=grid or search" in err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(("saved", "standing"), [(True, "1 interrupted, 1 not started"), (False, "2 not started")])
def test_interrupted_runs_are_called_so(cli, monkeypatch, capfd, saved, standing):
    """The table after Ctrl-C and `runner.sweep status` say the same; a run that has made no step is not started."""

    def stop(self):
        if saved:
            self.save()
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "train", stop)
    code, out, _ = cli("-m", "model=mlp", "epochs=1", "seed=0,1")
    assert code == 130 and "running" not in out and (f"2 runs: {standing};" in out) == saved
    assert command.main(["status", "outputs/runs"]) == 0
    assert f"2 runs in outputs/runs: {standing}" in capfd.readouterr().out


SLURM = {
    "sinfo": "exit 0",
    "srun": "exit 0",
    "sbatch": 'cat "$@" >> submitted\necho "sbatch: error: no such account" >&2\nexit 1',
}


def test_slurm_takes_parameters_without_a_plus_and_refusals_in_a_line(cli, monkeypatch, tmp_path):
    """`hydra.launcher.parameters.account=lab` reaches sbatch; what sbatch says is in the one line; refused, or
    without a cluster, nothing is left, not even the patch of uncommitted changes."""
    pytest.importorskip("submitit")
    Path("notes.txt").write_text("one\n")
    for words in (
        ["init", "-q"],
        ["add", "notes.txt"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *words], check=True)
    Path("notes.txt").write_text("two\n")
    bins = tmp_path / "bin"
    bins.mkdir()
    for name, text in SLURM.items():
        (bins / name).write_text(f"#!/bin/sh\n{text}\n")
        (bins / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bins}:{os.environ['PATH']}")
    words = ("-m", "model=mlp", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.parameters.account=lab")
    code, _, err = cli(*words)
    assert code == 2 and err.count("\n") == 1 and "refused the jobs (sbatch: error: no such account)" in err
    assert "hydra/launcher=local" in err and "#SBATCH --account=lab" in Path("submitted").read_text()
    assert not Path("outputs").exists()
    (bins / "sinfo").write_text("#!/bin/sh\necho 'sinfo: no controller' >&2\nexit 1\n")
    code, _, err = cli(*words)
    assert code == 2 and "no Slurm here (sinfo: no controller)" in err and "hydra/launcher=local" in err
    assert err.count("\n") == 1 and not Path("outputs").exists()
