"""Searches: trials that are runs, pruning, stopping and going on."""

import json
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import runner.task.recorder
from runner.sweep.search.pruner import PruningRule
from runner.task.training import Training
from tests.shared.results import results_of
from tests.shared.searches import LR, SMALL

FOLDER = Path("outputs/s")


def trials(folder: Path = FOLDER) -> list[optuna.trial.FrozenTrial]:
    """The study as Optuna itself reads it."""
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/study.db").trials


def answers(folder: Path = FOLDER) -> dict[str, tuple]:
    """What each run came to."""
    return {run: (r["status"], r["epochs"], r["val_accuracy"], r["val_loss"]) for run, r in results_of(folder).items()}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException) -> None:
    """The training of the run of that number ends in an error."""
    train, calls = Training.train, []

    def broken(self):
        calls.append(self)
        if len(calls) == count:
            raise error
        train(self)

    monkeypatch.setattr(Training, "train", broken)


def test_trials_are_runs_and_the_number_is_a_total(search, cli):
    """Two, then four in all: two are added; the best is named with a command that runs it alone."""
    assert search(2, LR, "batch_size=16,32")[0] == 0
    assert len(results_of(FOLDER)) == 2
    code, out, _ = search(4, LR, "batch_size=16,32")
    assert code == 0 and "4 trials in all, 2 known, 2 to come" in out and "4 of 4 trials: 4 done" in out
    results = results_of(FOLDER)
    assert len(results) == 4 and {r["status"] for r in results.values()} == {"done"}
    values = sorted(trial.value for trial in trials())
    assert values == sorted(result["val_accuracy"] for result in results.values())
    number, typed = re.search(r"best: trial (\d+), .*:  python -m runner (.*)", out).groups()
    assert trials()[int(number)].value == max(values)
    code, out, _ = cli(*shlex.split(typed))
    assert code == 0 and "1 of 1 run done already" in out and len(results_of(FOLDER)) == 4


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_stopped_search_goes_on_as_if_it_had_not(search, monkeypatch, sampler):
    """Interrupted in its third run and started again, it has the trials of an undisturbed one, and no more."""
    words = (LR, "batch_size=int(interval(8,40))", f"hydra.sweeper.sampler={sampler}", "hydra.sweeper.pruner=median")
    words += ("hydra.sweeper.startup_trials=2",)
    search(5, *words, "name=whole")
    interrupt_at(monkeypatch, 3, KeyboardInterrupt())
    code, _, err = search(5, *words)
    assert code == 130 and "the same command goes on" in err
    assert Counter(trial.state.name for trial in trials())["RUNNING"] == 1
    code, out, _ = search(5, *words)
    assert code == 0 and "5 of 5 trials" in out
    whole = Path("outputs/whole")
    assert [trial.params for trial in trials()] == [trial.params for trial in trials(whole)]
    assert len({json.dumps(trial.params) for trial in trials()}) == 5
    assert [trial.intermediate_values for trial in trials()] == [t.intermediate_values for t in trials(whole)]
    assert answers() == answers(whole)


def test_a_trial_without_its_run_is_completed(search):
    """A process that was killed between asking and starting leaves a trial, which is drawn to its end and run."""
    search(2, LR, "batch_size=16,32")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{FOLDER}/study.db")
    study.ask({"optimizer.lr": FloatDistribution(1e-3, 1e-1, log=True)})
    assert search(4, LR, "batch_size=16,32")[0] == 0
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 4
    assert {len(trial.params) for trial in trials()} == {2} and len(results_of(FOLDER)) == 4


def test_a_failed_run_is_tried_again_in_its_place(search, monkeypatch):
    """It ends with 1 and all the other trials; the same command does that run alone, to exactly the total."""
    interrupt_at(monkeypatch, 2, RuntimeError("no luck"))
    code, out, _ = search(3, LR)
    assert code == 1 and "RuntimeError: no luck" in out and "3 of 3 trials: 2 done, 1 failed" in out
    code, out, _ = search(3, LR)
    assert code == 0 and "3 of 3 trials: 3 done" in out and "1 to come" in out
    assert len(results_of(FOLDER)) == 3 and len(trials()) == 4


def test_a_run_that_another_process_has_ended_is_not_done_again(search, monkeypatch, cli):
    """A search was stopped in a run, which a command of its own ended since: the trial takes that result."""
    interrupt_at(monkeypatch, 2, KeyboardInterrupt())
    assert search(2, LR)[0] == 130
    (left,) = (result for result in results_of(FOLDER).values() if result["status"] == "running")
    cli(*left["overrides"])
    before = answers()
    code, out, _ = search(2, LR)
    assert code == 0 and "is done already" in out and answers() == before
    assert [trial.value for trial in trials()] == [before[run][2] for run in _runs()]


def _runs() -> list[str]:
    """The run of each trial."""
    names = {result["fingerprint"]: run for run, result in results_of(FOLDER).items()}
    return [names[trial.user_attrs["run"]["fingerprint"]] for trial in trials()]


def test_a_deleted_run_is_done_again(search):
    """The folders are what counts: the trial of one that is gone is repeated."""
    search(3, LR)
    before = answers()
    shutil.rmtree(next(iter(FOLDER.glob("*/result.json"))).parent)
    code, out, _ = search(3, LR)
    assert code == 0 and "3 of 3 trials: 3 done" in out and answers() == before


def test_known_runs_are_counted_in_and_not_done_again(search, cli):
    """Runs of a grid that lie in the space are trials; one that lies elsewhere is none."""
    cli("-m", *SMALL, "optimizer.lr=0.01,0.03", "batch_size=16")
    cli(*SMALL, "optimizer.lr=0.01", "batch_size=20")
    before = answers()
    code, out, _ = search(4, LR, "batch_size=16,32")
    assert code == 0 and "4 trials in all, 2 known, 2 to come" in out and len(results_of(FOLDER)) == 5
    assert answers().items() >= before.items()
    known = [trial for trial in trials() if trial.number < 2]
    assert {(trial.params["optimizer.lr"], trial.params["batch_size"]) for trial in known} == {
        (0.01, "16"),
        (0.03, "16"),
    }
    assert all(len(trial.intermediate_values) == 2 for trial in known)


def test_a_trial_that_repeats_another_takes_its_result(search):
    """A space of two points: two runs, and as many trials as are asked for."""
    code, out, _ = search(6, "optimizer.lr=0.01,0.02", "hydra.sweeper.sampler=random")
    assert code == 0 and out.count("is done already") == 4 and "6 of 6 trials: 6 done" in out
    assert len(results_of(FOLDER)) == 2
    values = {trial.params["optimizer.lr"]: trial.value for trial in trials()}
    assert all(trial.value == values[trial.params["optimizer.lr"]] for trial in trials()) and len(trials()) == 6


def test_a_grid_is_walked_once(search):
    """The sampler grid does every point once, ends there, and stops earlier where it is told to."""
    words = ("optimizer.lr=0.01,0.02", "batch_size=range(16,33,8)", "hydra.sweeper.sampler=grid")
    code, out, _ = search(2, *words)
    assert code == 0 and "2 of 2 trials" in out
    code, out, _ = search(50, *words)
    assert code == 0 and "6 trials in all, 2 known, 4 to come" in out
    points = {(r["swept"]["optimizer.lr"], r["swept"]["batch_size"]) for r in results_of(FOLDER).values()}
    assert points == {(lr, size) for lr in (0.01, 0.02) for size in (16, 24, 32)} and len(trials()) == 6


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_pruners_stop_runs_and_that_is_a_result(search, pruner):
    """Runs that promise nothing end early as `pruned`, with the numbers of their last epoch and the reason; the exit
    code stays 0, and nothing is done again."""
    words = ("optimizer.lr=tag(log,interval(1e-6,1e-1))", "epochs=4", "hydra.sweeper.sampler=random")
    words += (f"hydra.sweeper.pruner={pruner}", "log.tensorboard=true")
    words += ("hydra.sweeper.startup_trials=2",) if pruner == "median" else ("hydra.sweeper.reduction_factor=2",)
    code, out, _ = search(8, *words, report=pruner == "median")
    assert code == 0
    stopped = {run: result for run, result in results_of(FOLDER).items() if result["status"] == "pruned"}
    assert stopped and f"{len(stopped)} pruned" in out
    states = {trial.user_attrs["run"]["fingerprint"]: trial for trial in trials()}
    for run, result in stopped.items():
        epoch, trial = result["epochs"], states[result["fingerprint"]]
        assert epoch < 4 and result["reason"].startswith(f"stopped at epoch {epoch} of 4: val_accuracy")
        assert result["reason"] in out and result["val_loss"] > 0 and result["test_accuracy"] is None
        assert trial.state.name == "PRUNED" and trial.intermediate_values[epoch] == result["val_accuracy"]
        assert set(trial.intermediate_values) == set(range(1, epoch + 1))
        assert _last_word(FOLDER / run) == "pruned"
    for result in results_of(FOLDER).values():
        if result["status"] == "done":  # the last epoch is told, and never a reason to stop
            assert set(states[result["fingerprint"]].intermediate_values) == {1, 2, 3, 4}
    if pruner == "median":
        assert "pruned" in (FOLDER / "report.html").read_text() and "pruned" in (FOLDER / "results.csv").read_text()
    before = answers()
    code, out, _ = search(8, *words)
    assert code == 0 and "8 known, 0 to come" in out and answers() == before


def test_the_last_epoch_is_no_reason_to_stop(search, monkeypatch):
    """A pruner that stops everything at the second epoch of two stops nothing."""
    never = optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    monkeypatch.setattr(PruningRule, "build", lambda self: never)
    code, out, _ = search(1, LR, "hydra.sweeper.pruner=median")
    assert code == 0 and "1 of 1 trial: 1 done" in out
    code, out, _ = search(1, LR, "hydra.sweeper.pruner=median", "epochs=3", "name=longer")
    assert code == 0 and "1 of 1 trial: 1 pruned" in out and "stopped at epoch 2 of 3" in out


def _last_word(folder: Path) -> str:
    """The status in TensorBoard's row of hparams."""
    data = EventAccumulator(str(folder)).Reload().summary_metadata["_hparams_/session_start_info"].plugin_data
    start = HParamsPluginData.FromString(data.content).session_start_info
    return start.hparams["status"].string_value


def test_a_run_that_goes_on_tells_each_epoch_once(search, monkeypatch):
    """Stopped after its second epoch and resumed from its first, a run reports the second once, and ends the same."""
    words = (LR, "epochs=3", "hydra.sweeper.pruner=median", "checkpoint.seconds=0")
    search(2, *words, "name=whole")
    on_epoch, seen = runner.task.recorder.Recorder.epoch, []

    def stop(self, row):
        on_epoch(self, row)
        seen.append(row)
        if len(seen) == 5:  # the second run's second epoch: told to the study, not yet in the checkpoint
            self.job.pruner.stop_reason(row, False)
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.task.recorder.Recorder, "epoch", stop)
    assert search(2, *words)[0] == 130
    monkeypatch.setattr(runner.task.recorder.Recorder, "epoch", on_epoch)
    assert trials()[1].intermediate_values.keys() == {1, 2}
    assert search(2, *words)[0] == 0
    assert answers() == answers(Path("outputs/whole"))
    assert [t.intermediate_values for t in trials()] == [t.intermediate_values for t in trials(Path("outputs/whole"))]


def test_a_diverged_trial_is_a_bad_one(search):
    """It counts, tells the sampler to keep away, and ends the command with 1, as in any sweep."""
    code, out, _ = search(2, "optimizer=sgd", "optimizer.lr=1e30,2e30", "hydra.sweeper.sampler=grid")
    assert code == 1 and "2 diverged" in out
    assert [trial.state.name for trial in trials()] == ["PRUNED", "PRUNED"]


def test_several_objectives_end_in_the_pareto_front(search):
    """Those trials are the best that no other one beats in all metrics."""
    words = ("model.hidden=[4],[8],[16],[32],[64]", "hydra.sweeper.metric=[val_loss,parameters]")
    code, out, _ = search(5, *words, "hydra.sweeper.sampler=grid")
    assert code == 0
    points = {trial.number: trial.values for trial in trials()}
    front = {
        number
        for number, (loss, size) in points.items()
        if not any((a <= loss and b < size) or (a < loss and b <= size) for a, b in points.values())
    }
    assert {int(number) for number in re.findall(r"best: trial (\d+),", out)} == front and len(front) < 6


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer.lr=tag(log,interval(1e-3,1e-2))",), "has another space for optimizer.lr"),
        ((LR, "batch_size=16,32"), "does not search batch_size"),
        ((LR, "hydra.sweeper.metric=val_loss"), "holds a search by val_accuracy"),
        ((LR, "epochs=3"), "other settings, data or code"),
    ],
)
def test_another_search_in_the_folder_is_refused(search, words, line):
    """A study of another space, metric or setting: one line, exit code 2."""
    search(1, LR)
    code, _, err = search(2, *words)
    assert code == 2 and line in err and "choose another name=" in err and len(results_of(FOLDER)) == 1


def test_a_damaged_study_is_named_and_the_runs_are_not_lost(search):
    """A study.db that is none is refused; moved away, a new one counts the folder's runs in."""
    search(2, LR)
    (FOLDER / "study.db").write_text("not a database " * 100)
    code, _, err = search(3, LR)
    assert code == 2 and "study.db: cannot be read as a study" in err and "Traceback" not in err
    (FOLDER / "study.db").unlink()
    code, out, _ = search(3, LR)
    assert code == 0 and "3 trials in all, 2 known, 1 to come" in out and len(results_of(FOLDER)) == 3


def test_a_dry_run_shows_the_space_and_makes_nothing(search, cli):
    """Keys with their spaces, who proposes, how many are known: also of a folder that has no study yet."""
    code, out, _ = search(5, LR, "optimizer=sgd,adam", "hydra.sweeper.pruner=median", "dry_run=true")
    assert code == 0 and "tag(log,interval(1e-3,1e-1))" in out and "sampler tpe, pruner median" in out
    assert "5 trials in all, 0 known, 5 to come" in out and not Path("outputs").exists()
    cli(*SMALL, "optimizer.lr=0.01")
    _, out, _ = search(5, LR, "dry_run=true")
    assert "1 known, 4 to come" in out and not (FOLDER / "study.db").exists()
    search(2, LR)
    _, out, _ = search(5, LR, "dry_run=true")
    assert "2 known, 3 to come" in out


def test_an_experiment_may_bring_the_space(search, cli):
    """Its file names number and space; typed keys win; the best command runs beside it without -m."""
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/found.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    n_trials: 2\n"
        "    params:\n      optimizer.lr: tag(log,interval(1e-3,1e-1))\n      batch_size: 16,32\n"
    )
    words = ("--config-dir", "mine", "experiment=found", "hydra/sweeper=search", *SMALL)
    code, out, _ = cli("-m", *words, "batch_size=24")
    assert code == 0 and "2 of 2 trials" in out
    assert {result["choices"]["experiment"] for result in results_of(FOLDER).values()} == {"found"}
    assert json.loads((next(FOLDER.glob("*/result.json"))).read_text())["swept"].keys() == {"optimizer.lr"}
    typed = re.search(r"best: .*:  python -m runner (.*)", out)[1]
    code, out, _ = cli("--config-dir", "mine", *shlex.split(typed))
    assert code == 0 and "1 of 1 run done already" in out
    code, _, err = cli("--config-dir", "mine", "experiment=found", "hydra/sweeper=search", *SMALL)
    assert code == 2 and "brings a sweep of its own: add -m" in err


def test_worker_processes_report_to_the_pruner_themselves(search):
    """Two at once: every trial is told of, the stopped ones by the process that did them."""
    words = ("optimizer.lr=tag(log,interval(1e-6,1e-1))", "epochs=4", "hydra.sweeper.sampler=random")
    words += ("hydra.sweeper.pruner=halving", "hydra.sweeper.reduction_factor=2", "hydra.launcher.workers=2")
    code, out, _ = search(6, *words)
    assert code == 0 and "6 of 6 trials" in out
    statuses = Counter(result["status"] for result in results_of(FOLDER).values())
    assert statuses["pruned"] > 0 and statuses["done"] > 0 and sum(statuses.values()) == 6
    assert all(trial.intermediate_values for trial in trials())


def test_a_search_of_an_earlier_version_goes_on(cli, monkeypatch):
    """A study whose fp32 runs were fingerprinted as typed is the same search."""
    from runner.store.fingerprint import earlier
    from runner.sweep.plan import planner as plan

    words = ("-m", "hydra/sweeper=search", *SMALL, LR, "precision=fp32", "hydra.launcher.workers=0")
    with monkeypatch.context() as patch:
        patch.setattr(plan, "fingerprints", lambda *identity: earlier(*identity))
        assert cli(*words, "hydra.sweeper.n_trials=2")[0] == 0
    before = results_of(FOLDER)
    assert cli(*words, "hydra.sweeper.n_trials=3")[0] == 0
    after = results_of(FOLDER)
    assert len(before) == 2 and len(after) == 3 and all(after[name] == result for name, result in before.items())
