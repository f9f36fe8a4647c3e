"""Ends of a run and its choice of weights: early stopping, best weights, divergence."""

import math

import pytest
import torch

from runner.evaluation.metrics import EvaluationResult
from runner.execution.eager import EagerProgram
from runner.train.loop import train
from runner.train.progress import Diverged
from runner.train.state import TrainState
from tests.shared.training import make, splits, told, trained


def measuring(run, losses, accuracies=None):
    """Lets the run's validations find the given numbers."""
    accuracies = accuracies or [0.5] * len(losses)
    found = iter([EvaluationResult(loss, acc, torch.zeros(3, 3)) for loss, acc in zip(losses, accuracies)])
    run.measure = lambda: next(found)
    return run


@pytest.mark.parametrize(
    ("words", "losses", "accuracies", "epochs"),
    [
        (("patience=2",), [1.0, 0.9, 0.95, 0.92, 0.1, 0.1], None, 4),
        (("patience=2",), [1.0, 0.9, 0.95, 0.8, 0.85, 0.7], None, 6),
        (("patience=1",), [1.0, 1.0, 0.1], None, 2),
        (("patience=1", "min_delta=0.1"), [1.0, 0.85, 0.8, 0.1], None, 3),
        (("patience=2", "min_delta=0.1"), [1.0, 0.95, 0.89, 0.88, 0.85, 0.1], None, 5),
        (("patience=1", "metric=val_accuracy"), [1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.2, 0.9], 3),
        (("patience=null",), [1.0] * 6, None, 6),
    ],
)
def test_early_stopping(words, losses, accuracies, epochs):
    """Training ends after `patience` epochs without an improvement of more than min_delta over the best."""
    run = make("epochs=6", *(f"early_stopping.{word}" for word in words))
    train([measuring(run, losses, accuracies)], EagerProgram())
    assert len(run.progress.history) == epochs == run.progress.step / 3


@pytest.mark.parametrize(
    ("words", "best"),
    [
        (("checkpoint.select=best",), 3),  # the highest accuracy; of those the lowest loss
        (("checkpoint.select=best", "checkpoint.metric=val_loss"), 4),
        ((), 4),  # auto with a rate that stays: the lowest loss
        (("schedule=cosine",), None),  # auto with one that comes to rest: the last epoch
        (("schedule=cosine", "early_stopping.patience=9"), 4),
        (("checkpoint.select=last",), None),
    ],
)
def test_best_weights(words, best):
    """The weights kept are those of the best epoch: by accuracy with the loss to break ties, or by loss."""
    run = make("epochs=6", *words)
    measuring(run, [0.5, 0.9, 0.7, 0.1, 0.7, 0.6], [0.2, 0.8, 0.8, 0.3, 0.8, 0.1])
    kept = []
    run.on_epoch = lambda row: kept.append({k: v.clone() for k, v in run.model.state_dict().items()})
    train([run], EagerProgram())
    if best is None:
        assert run.progress.best is None and run.progress.best_weights is None
    else:
        assert run.progress.best["epoch"] == best
        assert all(torch.equal(value, kept[best - 1][name]) for name, value in run.progress.best_weights.items())
        assert not torch.equal(run.progress.best_weights["head.weight"], kept[-1]["head.weight"])


def test_validation_has_no_noise():
    """Validating draws no noise, repeats itself, and leaves the network training."""
    run = make("regularization=[dropout]")
    run.model.train()
    state = run.noise.get_state()
    first, second = run.measure(), run.measure()
    assert (first.loss, first.accuracy) == (second.loss, second.accuracy)
    assert torch.equal(run.noise.get_state(), state) and run.model.training
    assert first.loss == pytest.approx(make().measure().loss, rel=1e-6)


def test_no_validation():
    """Without validation data the run trains to its end, its rows without those numbers."""
    run = trained(data=splits(val=0))
    assert [row["val_loss"] for row in run.progress.history] == [None, None]
    assert run.progress.best_weights is None


@pytest.mark.parametrize("every", [1, 2, 50])
@pytest.mark.parametrize("bad", [0, 1, 4])
def test_divergence_is_placed_exactly(every, bad):
    """A NaN loss ends the run with its exact step and the last good values, however seldom losses are read."""
    clean = make("log.every=1")
    lines, rows = told(clean)
    train([clean], EagerProgram())
    run, loss = make(f"log.every={every}"), TrainState.loss
    run.loss = lambda batch: loss(run, batch) * (math.nan if run.progress.step == bad else 1)
    with pytest.raises(Diverged) as end:
        train([run], EagerProgram())
    assert end.value.step == bad + 1  # counted from 1
    assert end.value.reason.startswith(f"the loss was nan at step {bad + 1}; last good values: ")
    if bad == 0:
        assert end.value.reason.endswith("values: none")
    else:
        assert f"train_loss {lines[bad - 1][1]['train/loss']:.4g}" in end.value.reason
    if bad == 4:
        assert f"val_loss {rows[0]['val_loss']:.4g}" in end.value.reason
        assert len(run.progress.history) == 1


def test_infinite_validation_loss_diverges():
    """A validation loss that is not finite ends the run as well."""
    with pytest.raises(Diverged, match="validation loss was nan after step 3"):
        train([measuring(make(), [math.nan])], EagerProgram())


def test_a_rate_that_is_too_high_diverges():
    """Real divergence: SGD with an absurd rate ends in `Diverged`, not in NaN weights called trained."""
    with pytest.raises(Diverged):
        trained("optimizer.lr=1e20", "epochs=5")
