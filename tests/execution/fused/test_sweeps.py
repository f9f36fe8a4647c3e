"""Sweeps whose runs are trained as one program, as typed: files, ends, going on, refusals, searches."""

import csv
import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runner.sweep.run.launch
import runner.sweep.search.search
from runner.__main__ import main
from runner.execution.fused.network import StackedNetwork
from runner.sweep import __main__ as command
from runner.task.recorder import Recorder
from runner.train.state import TrainState
from tests.shared.results import results_of

SMALL = ("-m", "model=mlp", "model.hidden=[8]", "threads=1", "log.images=0", "hydra.launcher.workers=0")
TRUE = "hydra.launcher.fuse=true"
CALM = (  # six runs, of three optimizers, whose numbers depend on their places in the program
    *(*SMALL, "data.limit=800", "regularization=[batchnorm,dropout]", "epochs=3", "log.every=3"),
    "augmentation=[crop]",
    *("seed=0,1,2,3,4,5", "optimizer=sgd,sgd,sgd,adam,adam,adafactor", "early_stopping.min_delta=100"),
)
ZIP = "sweep.zip=[seed,optimizer]"
STOPPED, DIVERGED, BATCH, LISTENER, OWN = 1, 2, 3, 4, 5  # seeds, by what befalls them


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without times."""
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def left(folder: Path) -> dict[int, tuple]:
    """By seed: the folder, the result, the rows, the weights where the run was finished."""
    found = {}
    for name, result in results_of(folder).items():
        state = torch.load(folder / name / "checkpoint.pt", weights_only=True) if result["status"] == "done" else {}
        weights = {key: value.numpy().tobytes() for key, value in state.get("members", [{}])[0].items()}
        found[result["swept"]["seed"]] = folder / name, result, rows(folder / name), weights
    return found


def numbers(told: list[dict[str, str]]) -> torch.Tensor:
    return torch.tensor([[float(value) for value in row.values()] for row in told])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Half a second a sweep, and no part of these tests."""
    for module in (runner.sweep.run.launch, runner.sweep.search.search):
        monkeypatch.setattr(module, "write_report", lambda folder: folder)


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> dict[int, tuple]:
    """The six runs where nothing happens to any."""
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runner.sweep.run.launch, "write_report", lambda folder: folder)
        assert main([*CALM, ZIP, TRUE, "checkpoint.seconds=0"]) == 0
    return left(folder / "outputs/runs")


def test_each_run_has_all_that_is_its_own(calm, cli):
    """Runs that share a program leave what they leave alone, of their own numbers, which are those without it."""
    assert cli(*CALM, ZIP, "hydra.launcher.fuse=false")[0] == 0
    alone = left(Path("outputs/runs"))
    assert len(calm) == 6
    for seed, (folder, result, told, _) in calm.items():
        _, other, expected, _ = alone[seed]
        assert (result["fused"], result["status"], result["epochs"]) == (6, "done", 3) and "fused" not in other
        torch.testing.assert_close(numbers(told), numbers(expected), rtol=1e-3, atol=1e-3)
        epochs = [line for line in (folder / "run.log").read_text().splitlines() if "epoch=" in line]
        assert len(epochs) == 3
        assert all(f"val_loss={float(row['val_loss']):.5g} " in line for row, line in zip(told, epochs))
        events = EventAccumulator(str(folder))
        events.Reload()
        losses = [event.value for event in events.Scalars("val/loss")]
        assert losses == pytest.approx([float(row["val_loss"]) for row in told], rel=1e-6)


@pytest.fixture
def faults(monkeypatch):
    """What befalls runs, each in a part of the loop that is its own."""
    mix, update, epoch = TrainState.mix, TrainState.update, Recorder.epoch

    def broken_mix(self, images, labels, draws):
        if self.config["seed"] == BATCH and self.progress.step == 13:
            mix(self, images, labels, draws)  # it has drawn, and then
            raise OSError("no picture")
        return mix(self, images, labels, draws)

    def broken_update(self, objective):
        if self.config["seed"] == OWN and self.progress.step == 21:  # the last of an epoch
            raise ValueError("no step")
        update(self, objective)

    def broken_epoch(self, row):
        if self.config["seed"] == LISTENER and row["epoch"] == 2:
            raise OSError("no pen")
        epoch(self, row)

    monkeypatch.setattr(TrainState, "mix", broken_mix)
    monkeypatch.setattr(TrainState, "update", broken_update)
    monkeypatch.setattr(Recorder, "epoch", broken_epoch)


def test_one_runs_end_changes_no_others_numbers(calm, cli, faults):
    """One stops early, one diverges, three raise, each in another part of the loop: the sixth is what it was, and each
    is up to its end."""
    several = f"{ZIP[:-1]},lr_scale,early_stopping.patience]"
    ends = ("lr_scale=1,1,1e39,1,1,1", "early_stopping.patience=null,1,null,null,null,null")
    code, out, _ = cli(*CALM, several, *ends, TRUE)
    found = left(Path("outputs/runs"))
    assert code == 1 and "6 runs trained together" in out
    statuses = {seed: result["status"] for seed, (_, result, _, _) in found.items()}
    assert statuses == {0: "done", 1: "done", DIVERGED: "diverged", BATCH: "failed", LISTENER: "failed", OWN: "failed"}
    reasons = {seed: found[seed][1]["reason"] for seed in (BATCH, LISTENER, OWN)}
    assert reasons == {BATCH: "OSError: no picture", LISTENER: "OSError: no pen", OWN: "ValueError: no step"}
    assert found[0][2:] == calm[0][2:]
    epochs = {seed: len(told) for seed, (_, _, told, _) in found.items()}
    assert epochs == {0: 3, STOPPED: 2, DIVERGED: 0, BATCH: 1, LISTENER: 1, OWN: 1}
    for seed, (_, _, told, _) in found.items():
        assert told == calm[seed][2][: epochs[seed]]


def test_stopped_in_the_middle_of_a_step_and_gone_on_with(calm, cli, monkeypatch):
    """Ended when some runs have saved a step that others have not: the same command gives the same, bit for bit."""
    pause = TrainState.pause

    def stop(self):
        if self.config["seed"] == 3 and self.progress.step == 17:
            raise KeyboardInterrupt
        pause(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "pause", stop)
        code, out, _ = cli(*CALM, ZIP, TRUE, "checkpoint.seconds=0")
    assert code == 130 and "6 interrupted" in out
    assert cli(*CALM, ZIP, TRUE, "checkpoint.seconds=0")[0] == 0
    found = left(Path("outputs/runs"))
    steps = {line.split("step ")[1] for one in found.values() for line in log(one[0]) if "goes on after" in line}
    assert steps == {"14 of 33", "17 of 33"}
    for seed, (_, _, told, weights) in calm.items():
        assert found[seed][2:] == (told, weights)


def test_a_fault_of_nobodys_own_parts_the_program(calm, cli, monkeypatch):
    """Where the shared pass itself fails all go on one by one from that step, to the numbers that they have alone."""
    forward, calls = StackedNetwork.forward, []

    def broken(self, images):
        calls.append(images)
        if len(calls) == 20:
            raise RuntimeError("no pass")
        return forward(self, images)

    monkeypatch.setattr(StackedNetwork, "forward", broken)
    assert cli(*CALM, ZIP, TRUE)[0] == 0 and len(calls) == 20
    found = left(Path("outputs/runs"))
    assert any("go on one by one: RuntimeError: no pass" in line for one in found.values() for line in log(one[0]))
    for seed, (_, _, told, _) in calm.items():
        assert found[seed][1]["status"] == "done"
        torch.testing.assert_close(numbers(found[seed][2]), numbers(told), rtol=1e-3, atol=1e-3)


def log(folder: Path) -> list[str]:
    return (folder / "run.log").read_text().splitlines()


def test_what_cannot_be_fused_is_refused_in_a_line(cli):
    """Told to share a program, runs that cannot say why, and nothing is written; other launchers have no such key."""
    words = (*SMALL[:-1], TRUE)
    for more, said in (
        (("seed=0,1", "optimizer=sgd,sam"), "optimizer: SAM looks at the loss more than once a step"),
        (("seed=0,1", "optimizer=lbfgs"), "optimizer: LBFGS looks at the loss more than once a step"),
        (("seed=0,1", "transfer.unfreeze.every=1", "transfer.freeze_depth=1"), "runs would train different stages"),
        (("seed=0,1", "compile=true"), "compile=true: a run's own network is compiled"),
        (("hydra/sweeper=search", "optimizer.lr=0.1,0.2", "optimizer=sam"), "SAM looks at the loss more than once"),
        (("seed=0,1", "hydra/launcher=ray"), "hydra/launcher=ray has no key 'fuse'"),
        (("seed=0,1", "hydra/launcher=slurm"), "hydra/launcher=slurm has no key 'fuse'"),
    ):
        code, _, err = cli(*words, *more)
        assert code == 2 and said in err and err.count("runner:") == 1, more
    code, _, err = cli("-m", "task=surface", "seed=0,1", TRUE)
    assert code == 2 and "task: only task=train trains" in err and err.count("\n") == 1
    assert not Path("outputs").exists()


def test_auto_says_what_it_does_and_why(cli):
    """A dry run tells which runs may share a program and why others do not; what a trial decided stands, is shown, and
    is asked for no more."""
    words = (*SMALL, "data.limit=200", "batch_size=8")
    more = (*words, "optimizer=sgd,sam", "seed=0,1", "epochs=1,5")
    _, out, _ = cli(*more, "dry_run=true")
    assert "2 runs in one program: a trial at their start decides whether they are trained together" in out
    assert "2 alone: fewer than 100 steps: a trial would not pay" in out
    assert "4 alone: optimizer: SAM looks at the loss more than once a step" in out and not Path("outputs").exists()
    large = ("model=resnet20", "batch_size=256", "epochs=20", "seed=0,1", "sweep.probe=false", "dry_run=true")
    assert "2 alone: a step has more than 2e+09 operations" in cli("-m", *large)[1]
    assert cli(*words, "seed=0,1", "epochs=1", "name=short")[0] == 0
    assert not Path("outputs/short/.fuse").exists()
    code, out, _ = cli(*words, "seed=0,1", "epochs=5", "name=long")
    (path,) = Path("outputs/long/.fuse").iterdir()
    said = json.loads(path.read_text())
    reason = f"{'2 runs trained together' if said['fused'] else 'one by one'}: {said['reason']}"
    assert code == 0 and " ms alone and " in said["reason"] and reason in out
    results = results_of(Path("outputs/long")).values()
    assert [result.get("fused") for result in results] == [2 if said["fused"] else None] * 2
    path.write_text(json.dumps({"fused": False, "reason": "so it was"}))
    _, out, _ = cli(*words, "seed=0,1", "epochs=5", "name=long", "rerun=true", "dry_run=true")
    assert "2 runs in one program: trained one by one, as was decided before (so it was)" in out
    code, out, _ = cli(*words, "seed=0,1", "epochs=5", "name=long", "rerun=true")
    results = results_of(Path("outputs/long")).values()
    assert not any("fused" in result for result in results) and "one by one: so it was" in out
    assert cli(*words, "seed=0,1", "epochs=5", "name=long", "rerun=true", TRUE)[0] == 0
    assert all(result["fused"] == 2 for result in results_of(Path("outputs/long")).values())


def test_a_damaged_verdict_is_named_and_made_anew(cli):
    """As other damaged files are: it would be asked again and again."""
    words = (*SMALL, "data.limit=200", "batch_size=8", "seed=0,1", "epochs=5")
    assert cli(*words)[0] == 0
    (path,) = Path("outputs/runs/.fuse").iterdir()
    path.write_text("{garbage")
    assert cli(*words, "rerun=true")[0] == 0
    said = "".join(log.read_text() for log in Path("outputs/runs").glob("*/run.log"))
    assert f"{path.name} is damaged: it is written anew" in said and "fused" in json.loads(path.read_text())


def test_a_run_with_a_program_to_itself_is_not_called_together(cli):
    """Nor before the sweep, nor after it."""
    words = (*SMALL, "data.limit=200", "seed=0,1", "epochs=1", TRUE, "hydra.launcher.fuse_max=1")
    _, out, _ = cli(*words, "dry_run=true", "sweep.probe=false")
    assert "2 runs in 2 programs: each has one to itself" in out
    code, out, _ = cli(*words)
    assert code == 0 and "together" not in out


def test_status_tells_of_runs_that_were_trained_together(calm, capfd):
    """`python -m runner.sweep status` says how many."""
    assert command.main(["status", str(calm[0][0].parent)]) == 0
    assert "6 runs trained together: hydra.launcher.fuse=true" in capfd.readouterr().out


def test_members_of_an_ensemble_share_a_program(cli, monkeypatch):
    """Independent networks of one run are trained as one, with the numbers that they have without."""
    widths, forward = set(), StackedNetwork.forward
    monkeypatch.setattr(StackedNetwork, "forward", lambda self, images: widths.add(self.count) or forward(self, images))
    words = (*SMALL[1:-1], "ensemble=independent", "ensemble.members=3", "epochs=2", "regularization=[dropout]")
    assert cli(*words, "name=alone", "hydra.launcher.fuse=false")[0] == 0 and not widths
    assert cli(*words, "name=together", TRUE)[0] == 0 and 3 in widths
    (alone,), (together,) = (list(Path(f"outputs/{name}").glob("*/metrics.csv")) for name in ("alone", "together"))
    torch.testing.assert_close(numbers(rows(together.parent)), numbers(rows(alone.parent)), rtol=1e-4, atol=1e-4)


def test_a_pruned_trial_moves_no_other_trial(cli):
    """Trials that share a program: one that is pruned leaves it, and the others' numbers are those without pruning.
    Only told to, a search fuses."""
    words = (*SMALL, "data.limit=400", "epochs=3", "regularization=[batchnorm]", "optimizer.lr=interval(1e-5,1e-1)")
    words += ("hydra/sweeper=search", "hydra.sweeper.sampler=random", "hydra.sweeper.n_trials=8")
    assert cli(*words, TRUE, "hydra.launcher.fuse_max=4", "name=all")[0] == 0
    median = ("hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=1")
    code, out, _ = cli(*words, *median, TRUE, "hydra.launcher.fuse_max=4", "name=some")
    found, whole = (
        {name: (result, rows(Path(folder) / name)) for name, result in results_of(Path(folder)).items()}
        for folder in ("outputs/some", "outputs/all")
    )
    pruned = {name for name, (result, _) in found.items() if result["status"] == "pruned"}
    assert code == 0 and found.keys() == whole.keys() and 0 < len(pruned) < 5
    assert "8 runs trained together" in out
    for name, (result, told) in found.items():
        assert result["fused"] == 4 and told == whole[name][1][: len(told)]
        assert (len(told) < 3) == (name in pruned)
    assert cli(*words, "hydra.sweeper.n_trials=2", "name=none")[0] == 0
    assert not any("fused" in result for result in results_of(Path("outputs/none")).values())
