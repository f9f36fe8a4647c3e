"""Which epoch's weights are tested: `checkpoint.select`, resolved once, by the schedule."""

import json
import subprocess
import sys

import pytest

from runner.report import write_report
from runner.schedule.base import Schedule, Timeline
from runner.schedule.constant import Constant
from runner.schedule.cosine import Cosine
from runner.schedule.cyclic import Cyclic
from runner.schedule.multistep import MultiStep
from runner.schedule.one_cycle import OneCycle
from runner.schedule.plateau import Plateau
from runner.schedule.warm_restarts import WarmRestarts
from runner.schedule.wsd import WarmupStableDecay
from runner.store.revisions import revisions
from runner.task.train import Train, _warn_once
from runner.train.selection import final_share, select_weights
from tests.shared.configs import composed
from tests.shared.reports import Page
from tests.shared.results import result_of, results_of

LENGTH = Timeline(600, 20)


def config(select="auto", metric="val_accuracy", patience=None):
    return {"checkpoint": {"select": select, "metric": metric}, "early_stopping": {"patience": patience}}


@pytest.mark.parametrize(
    ("schedule", "rule"),
    [
        (Constant(LENGTH), "val_loss"),
        (Cosine(LENGTH), "last"),
        (Cosine(LENGTH, floor=0.2), "val_loss"),
        (Cosine(LENGTH, floor=0.05), "last"),
        (Cosine(LENGTH, warmup="50%"), "last"),
        (Cosine(Timeline(3, 1)), "val_loss"),  # its last step is at a quarter of the rate
        (WarmupStableDecay(LENGTH), "last"),
        (OneCycle(LENGTH), "last"),
        (MultiStep(LENGTH), "last"),  # 1 %
        (MultiStep(LENGTH, milestones=["50%"]), "val_loss"),  # 10 %: not below
        (WarmRestarts(LENGTH), "last"),
        (Cyclic(LENGTH, low=0.5), "val_loss"),
        (Plateau(LENGTH), "val_loss"),
    ],
)
def test_auto_is_last_where_the_schedule_comes_to_rest(schedule, rule):
    """Below a tenth of its highest rate at the last step, by every step of the schedule; else the lowest loss."""
    assert select_weights(config(), schedule, True).rule == rule
    if schedule.foreseen:
        rates = [schedule(step) for step in range(schedule.timeline.steps)]
        assert final_share(schedule) == pytest.approx(rates[-1] / max(rates))
        assert (rule == "last") == (rates[-1] / max(rates) < 0.1)


def test_what_may_stop_early_keeps_the_lowest_loss():
    """Whatever the schedule: a run that ends early ends at a high rate. Without validation images, the last epoch."""
    stops = select_weights(config(patience=3), Cosine(LENGTH), True)
    assert stops.rule == "val_loss" and "early_stopping.patience=3" in stops.reason
    assert select_weights(config(), Constant(LENGTH), False).rule == "last"
    assert select_weights(config(), Constant(LENGTH), True, has_own_members=True).rule == "last"


@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss"])
def test_typed_choices_are_what_they_say(metric):
    """`last` and `best` do not look at the schedule; `best` goes by `checkpoint.metric`."""
    for schedule in (Constant(LENGTH), Cosine(LENGTH)):
        assert select_weights(config("last"), schedule, True).rule == "last"
        assert select_weights(config("best", metric), schedule, True).rule == metric


@pytest.mark.parametrize("period", [7, 64, 100, 618])
def test_long_schedules_are_sampled_without_falling_into_step(period):
    """A hundred thousand steps in which the rate is high for a fifteenth of each period: the peak is seen."""

    class Spikes(Schedule):
        def decay(self, step):
            return 1.0 if step % period < max(1, period // 15) else 0.05

    spikes = Spikes(Timeline(100_000 - 100_000 % period, 10))
    assert final_share(spikes) == pytest.approx(0.05)


def test_a_cosine_and_a_constant_rate_from_the_command_line(cli, tmp_path):
    """result.json and the page say which epoch's weights were tested, and why; the numbers are those of that epoch."""
    words = ["model=mlp", "epochs=4", "optimizer.lr=0.01", "log.tensorboard=false", "threads=1"]
    assert cli("-m", "schedule=cosine,constant", *words, "name=both")[0] == 0
    assert cli("-m", "schedule=cosine", "seed=0,1", *words, "name=alike")[0] == 0
    assert "chosen alike" not in (tmp_path / "outputs" / "alike" / "report.html").read_text()
    for name, result in results_of(tmp_path / "outputs" / "both").items():
        header, *rows = (tmp_path / "outputs" / "both" / name / "metrics.csv").read_text().splitlines()
        epochs = [dict(zip(header.split(","), map(float, row.split(",")))) for row in rows]
        if "cosine" in name:
            assert result["select"]["rule"] == "last" and result["best_epoch"] is None
            assert "of its highest rate, and nothing stops early" in result["select"]["reason"]
            chosen = epochs[-1]
        else:
            reason = "the schedule ends at 100 % of its highest rate"
            assert result["select"] == {"rule": "val_loss", "reason": reason}
            chosen = min(epochs, key=lambda row: row["val_loss"])
            assert result["best_epoch"] == chosen["epoch"]
        assert result["val_loss"] == pytest.approx(chosen["val_loss"], rel=1e-4)
    text = Page((tmp_path / "outputs" / "both" / "report.html").read_text()).words
    assert "of the last epoch: the schedule ends at" in text
    assert "of the epoch with the lowest validation loss: the schedule ends at 100 %" in text
    chosen = {rule: f"({name})" for rule, name in (("last epoch", "schedule=cosine"), ("loss", "schedule=constant"))}
    note = text[text.index("Not all combinations are measured with weights chosen alike") :]
    assert all(f"{rule} {name}" in note for rule, name in chosen.items())


def test_a_metric_that_nothing_reads_is_refused(cli, tmp_path):
    """`checkpoint.metric` belongs to `checkpoint.select=best`; one line, nothing written."""
    code, _, err = cli("checkpoint.metric=val_loss", "epochs=1", "model=mlp")
    assert code == 2 and err.count("\n") == 1 and "checkpoint.metric=val_loss" in err
    assert "checkpoint.select=best" in err and not (tmp_path / "outputs").exists()
    words = ["checkpoint.select=best", "checkpoint.metric=val_loss", "model=mlp", "epochs=1", "log.tensorboard=false"]
    assert cli(*words, "name=typed")[0] == 0
    fact = result_of(tmp_path / "outputs" / "typed")["select"]
    assert fact == {"rule": "val_loss", "reason": "checkpoint.select=best"}


def test_auto_has_a_revision_and_typed_choices_have_none():
    """Folders of the former `auto` do not answer; those of `best` and `last`, and of tasks without training, do."""
    for select, task, expected in (
        ("auto", "runner.task.train.Train", {"checkpoint.select": 2}),
        ("best", "runner.task.train.Train", {}),
        ("last", "runner.task.train.Train", {}),
        ("auto", "mine.tasks.Own", {"checkpoint.select": 2}),
        ("auto", "runner.task.evaluate.EvaluateTask", {}),
        ("auto", "runner.task.lr_range.LrRange", {}),
    ):
        known = revisions({"checkpoint": {"select": select}, "task": {"_target_": task}})
        assert {key: known[key] for key in known if key == "checkpoint.select"} == expected


@pytest.mark.parametrize(
    ("word", "off", "on"),
    [
        ("early_stopping.min_delta=0.1", "early_stopping.patience=null", "early_stopping.patience=2"),
        ("early_stopping.metric=val_accuracy", "early_stopping.patience=null", "early_stopping.patience=2"),
        ("checkpoint.metric=val_loss", "checkpoint.select=last", "checkpoint.select=best"),
        ("transfer.pretrained_lr_scale=0.5", "transfer.weights=null", "transfer.weights=default"),
        ("transfer.frozen_norm=train", "transfer.freeze_depth=0", "transfer.freeze_depth=1"),
    ],
)
def test_typed_keys_without_effect_are_named(word, off, on, caplog):
    """Not refused: a sweep may have the key for its other combinations."""
    for switch, expected in ((off, [f"{word}: has no effect with {off}"]), (on, [])):
        caplog.clear()
        _warn_once.cache_clear()
        Train().complete(composed(word, switch), [word, switch])
        assert [record.getMessage() for record in caplog.records] == expected


def test_a_command_says_what_has_no_effect(cli, caplog):
    _warn_once.cache_clear()
    code, _, _ = cli("-m", "seed=0,1", "early_stopping.min_delta=0.1", "dry_run=true", "sweep.probe=false")
    expected = "early_stopping.min_delta=0.1: has no effect with early_stopping.patience=null"
    assert code == 0 and [record.getMessage() for record in caplog.records].count(expected) == 1


def test_the_page_survives_results_that_do_not_tell(tmp_path):
    """Folders of an older version have no such entry, or another one."""
    for number, fact in enumerate((None, "best", {"rule": "luck"}, {"rule": "last", "reason": "<b>"})):
        run = tmp_path / "sweep" / f"r{number}"
        run.mkdir(parents=True)
        result = {"status": "done", "swept": {"seed": number}, "val_accuracy": 0.5, "select": fact}
        run.joinpath("result.json").write_text(json.dumps(result))
    text = write_report(tmp_path / "sweep").read_text()
    assert text.count("of the last epoch") == 1 and "<b></dd>" not in text


def test_the_decision_needs_no_torch():
    """`status` and the report may ask without loading torch."""
    code = (
        "import sys, runner.train.selection, runner.report, runner.compare.__main__; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_rate_of_zero_everywhere_is_no_rest():
    """No division by zero for a schedule that never moves anything."""

    class Still(Schedule):
        def decay(self, step):
            return 0.0

    assert final_share(Still(LENGTH)) == 1.0
