"""Means of weights (EMA, Polyak, SWA) against NumPy loops."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from runner.build.complaints import Refused
from runner.core.seeds import generator
from runner.ensemble.batch_norm import estimate
from runner.evaluation.evaluate import evaluate
from runner.execution.eager import EagerProgram
from runner.train.loop import train
from tests.shared.averages import LOGGED, preflight, recorded, state
from tests.shared.training import make, numbers, weights

NORMS = ("regularization=[batchnorm]",)
AVERAGES = {
    "ema": ("ensemble=ema", "ensemble.decay=0.6"),
    "polyak": ("ensemble=polyak", "ensemble.start=0.4"),
    "swa": ("ensemble=swa", "ensemble.start=0.3"),
}


def statistics(model):
    """Running means and variances in one vector."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return torch.cat([torch.cat([norm.running_mean, norm.running_var]) for norm in norms]).double().numpy()


# -- means of weights -----------------------------------------------------------------------------------------------


def ema_by_hand(rows, decay):
    mean = rows[0]
    for t, row in enumerate(rows[1:]):
        share = min(decay, (1 + t) / (10 + t))
        mean = share * mean + (1 - share) * row
    return mean


@pytest.mark.parametrize("decay", [0.3, 0.6, 0.999])
def test_ema(decay):
    """The moving average is that of a NumPy loop over the weights, its decay warmed up."""
    run, rows = recorded("ensemble=ema", f"ensemble.decay={decay}")
    np.testing.assert_allclose(state(run.ensemble.network), ema_by_hand(rows, decay), rtol=1e-5, atol=1e-7)
    assert not np.allclose(state(run.ensemble.network), rows[-1], atol=1e-4)


def test_ema_averages_the_statistics_of_norms():
    """Running means and variances are averaged as the weights are; counters are the run's."""
    run = make(*LOGGED, *NORMS, "ensemble=ema", "ensemble.decay=0.6")
    seen = [statistics(run.model)]
    run.on_log = lambda step, scalars: seen.append(statistics(run.model)) if "train/loss" in scalars else None
    train([run], EagerProgram())
    np.testing.assert_allclose(statistics(run.ensemble.network), ema_by_hand(seen, 0.6), rtol=1e-5)
    counters = [value for name, value in run.ensemble.network.state_dict().items() if "num_batches" in name]
    assert counters and all(counter == run.steps for counter in counters)


def test_polyak():
    """The mean of the weights after every step of the last six tenths."""
    run, rows = recorded(*AVERAGES["polyak"])
    first = int(0.4 * run.steps)
    assert first == 4 and run.steps == 12
    np.testing.assert_allclose(state(run.ensemble.network), rows[1 + first :].mean(0), rtol=1e-5, atol=1e-7)


def test_polyak_from_the_first_step():
    """`start=0` is the plain mean of all steps."""
    run, rows = recorded("ensemble=polyak", "ensemble.start=0")
    np.testing.assert_allclose(state(run.ensemble.network), rows[1:].mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("start", "epochs"), [(0.3, [3, 4]), (0.5, [3, 4]), (0.0, [1, 2, 3, 4]), (0.25, [2, 3, 4])])
def test_swa(start, epochs):
    """The mean of the weights at the ends of the epochs that begin after `start`."""
    run, rows = recorded("ensemble=swa", f"ensemble.start={start}")
    ends = [epoch * run.steps_per_epoch for epoch in epochs]
    np.testing.assert_allclose(state(run.ensemble.network), rows[ends].mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_run_itself_is_untouched(name):
    """The weights that are averaged are those of the run without an average, bit for bit."""
    plain = make(*LOGGED, *NORMS, "regularization=[batchnorm,dropout]", "augmentation=[crop]")
    averaged = make(*LOGGED, *AVERAGES[name], "regularization=[batchnorm,dropout]", "augmentation=[crop]")
    train([plain], EagerProgram())
    train([averaged], EagerProgram())
    assert torch.equal(weights(plain), weights(averaged))


@pytest.mark.parametrize("name", ["swa", "polyak"])
def test_statistics_are_estimated_on_training_images(name):
    """After an epoch the averaged network's norms are what torch's `update_bn` makes of the training images."""
    run = make(*LOGGED, *NORMS, *AVERAGES[name], "augmentation=[crop]")
    train([run], EagerProgram())
    network = copy.deepcopy(run.ensemble.network)
    order = torch.randperm(50, generator=generator(0, "batch norm statistics"))[:48]
    images = [run.normalize(run.train_split.images[rows]) for rows in order.split(16)]
    torch.optim.swa_utils.update_bn(images, network)
    np.testing.assert_allclose(statistics(run.ensemble.network), statistics(network), rtol=1e-6)
    assert not np.allclose(statistics(network), statistics(run.model), rtol=1e-2)
    assert not run.ensemble.network.training and run.model.training


def test_estimate_of_known_images():
    """The statistics become the plain means over batches, however far they were; the momentum stays."""
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.3)).train()
    model[0].running_mean.fill_(100)
    batches = torch.randn(5, 8, 2, generator=torch.Generator().manual_seed(0)).numpy() * 3 + 1
    estimate(model, map(torch.from_numpy, batches))
    np.testing.assert_allclose(model[0].running_mean, batches.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(model[0].running_var, batches.var(1, ddof=1).mean(0), rtol=1e-5)
    assert model[0].momentum == 0.3


def test_frozen_norms_are_not_estimated():
    """Statistics of a frozen stage stay what they were."""
    model = ("model=convnet", "model.channels=[4,4]", "model.hidden=8")
    run = make(*LOGGED, *NORMS, *AVERAGES["swa"], *model, "transfer.freeze_depth=1")
    first = next(m for m in run.ensemble.network.modules() if isinstance(m, nn.BatchNorm2d))
    before = first.running_mean.clone(), first.running_var.clone()
    train([run], EagerProgram())
    assert torch.equal(first.running_mean, before[0]) and torch.equal(first.running_var, before[1])
    assert not np.allclose(statistics(run.ensemble.network)[8:], 0)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_average_is_what_is_validated(name):
    """The row of the last epoch is the averaged network's, and the best weights are its."""
    run = make(*LOGGED, *NORMS, *AVERAGES[name])
    train([run], EagerProgram())
    measured = evaluate([run.ensemble.network], run.val_split, run.normalize, contextlib.nullcontext, 16, 3)
    assert run.progress.history[-1]["val_loss"] == measured.loss
    raw = evaluate([run.model.eval()], run.val_split, run.normalize, contextlib.nullcontext, 16, 3)
    assert raw.loss != measured.loss
    assert run.ensemble.members([run]) == [run.ensemble.network] and run.ensemble.compared([run]) == [run.model]


def test_before_the_average_the_run_is_validated():
    """Until there is an average the run's own weights are; their best is then forgotten."""
    plain, run = make(*LOGGED), make(*LOGGED, "ensemble=swa", "ensemble.start=0.5")
    train([plain], EagerProgram())

    def unbeatable(row):
        if row["epoch"] == 2:
            run.progress.best = row | {"val_accuracy": 2.0}

    run.on_epoch = unbeatable
    train([run], EagerProgram())
    assert numbers(run.progress.history)[:2] == numbers(plain.progress.history)[:2]
    assert run.progress.best["epoch"] >= 3


def test_stopping_waits_for_the_average():
    """Epochs without improvement before the average begins end no run."""
    stop = ("early_stopping.patience=1", "early_stopping.min_delta=10", "epochs=8")
    plain, run = make(*stop), make(*stop, "ensemble=swa", "ensemble.start=0.5")
    train([plain], EagerProgram())
    train([run], EagerProgram())
    assert len(plain.progress.history) == 2 and len(run.progress.history) == 6


@pytest.mark.parametrize("name", [*AVERAGES, "snapshot"])
@pytest.mark.parametrize("pause", [4, 7, 9])
def test_goes_on_bit_for_bit(name, pause):
    """A run that is cut off within, before or after the average goes on as if nothing had happened."""
    chosen = AVERAGES.get(
        name, ("ensemble=snapshot", "ensemble.members=2", "schedule=warm_restarts", "schedule.every=25%")
    )
    words = (*LOGGED, *chosen, "regularization=[batchnorm,dropout]", "augmentation=[crop]")
    whole = make(*words)
    train([whole], EagerProgram())

    class Cut(Exception):
        pass

    kept = []

    def stop(run):
        if run.progress.step == pause:
            kept.append(copy.deepcopy(run.state_dict()))
            raise Cut

    first, second = make(*words), make(*words)
    first.on_pause = stop
    with pytest.raises(Cut):
        train([first], EagerProgram())
    second.load_state_dict(kept[0])
    train([second], EagerProgram())
    assert numbers(whole.progress.history) == numbers(second.progress.history)
    for mine, theirs in zip(whole.ensemble.members([whole]), second.ensemble.members([second]), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_an_average_of_too_few_epochs():
    """One epoch is no average."""
    with pytest.raises(Refused, match=r"ensemble\.start=0\.75: leaves fewer than 2 of epochs=4 to average; start ear"):
        preflight("ensemble=swa", "epochs=4")
    preflight("ensemble=swa", "epochs=8")
