"""The loop against plain torch loops written out; rates, precision and layout."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.build.check import check
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.program import Objective
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.training import CPU, SMALL, first_look, gradient, make, numbers, splits, told, trained, weights


@pytest.mark.parametrize(
    ("words", "fused"),
    [
        (("optimizer=adam",), True),
        (("optimizer=adamw",), True),
        (("optimizer=adagrad",), True),
        (("optimizer=adam", "optimizer.bias_correction=false"), False),
        (("optimizer=sgd",), True),
        (("optimizer=nesterov", "optimizer.weight_decay=0.1"), True),
        # Its kernel fails where some weights had no gradient at first.
        (("optimizer=momentum", "transfer.freeze_depth=1", "transfer.unfreeze.every=1"), False),
    ],
)
def test_a_step_is_one_kernel_where_torch_has_one(words, fused):
    """And its numbers are those of single passes, to rounding."""
    run, plain = make(*words), make(*words)
    assert all(bool(group.get("fused")) is fused for group in run.optimizer.param_groups)
    for group in plain.optimizer.param_groups:
        group["fused"] = False
    train([run], EagerProgram())
    train([plain], EagerProgram())
    torch.testing.assert_close(weights(run), weights(plain), rtol=1e-4, atol=1e-5)


# -- the whole loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        (("optimizer=sgd",), lambda p: torch.optim.SGD(p, lr=0.1)),
        (("optimizer=nesterov",), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, nesterov=True)),
        (("optimizer=adam", "lr_scale=0.5"), lambda p: torch.optim.Adam(p, lr=0.0005, fused=True)),
    ],
)
@pytest.mark.parametrize(
    ("model", "network"),
    [
        (("model=mlp", "model.hidden=[12]"), lambda **k: MLP([12], **k)),
        (("model=convnet", "model.channels=[4,4]", "model.hidden=8"), lambda **k: ConvNet([4, 4], 8, **k)),
    ],
)
def test_equals_a_plain_loop(options, optimizer, model, network):
    """A run's weights, losses and validation equal those of a loop written by hand, bit for bit."""
    data = splits()
    base = tuple(word for word in SMALL if not word.startswith("model"))
    config = check(composed(*base, *model, *options))
    noise = generator(0, "noise")
    run = TrainState(config, Resources().parts(config, data, CPU, noise), CPU, noise)
    train([run], EagerProgram())

    torch.manual_seed(0)
    plain = network(in_channels=1, num_classes=3, image_size=8)
    update = optimizer(plain.parameters())
    images = (data.train.images - data.mean.view(-1, 1, 1) * 255) * (1 / (data.std.view(-1, 1, 1) * 255))
    for epoch in range(2):
        losses = []
        order = torch.randperm(50, generator=generator(0, f"order of epoch {epoch}"))
        for rows in order[:48].split(16):
            update.zero_grad()
            loss = cross_entropy(plain(images[rows]), data.train.labels[rows])
            loss.backward()
            update.step()
            losses.append(loss.item())
        assert run.progress.history[epoch]["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert torch.equal(weights(run), torch.cat([p.detach().flatten() for p in plain.parameters()]))
    val = (data.val.images - data.mean.view(-1, 1, 1) * 255) * (1 / (data.std.view(-1, 1, 1) * 255))
    with torch.no_grad():
        logits = plain(val)
    row = run.progress.history[-1]
    assert row["val_loss"] == pytest.approx(cross_entropy(logits, data.val.labels).item(), rel=1e-5)
    assert row["val_accuracy"] == (logits.argmax(1) == data.val.labels).double().mean().item()


def test_runs_side_by_side():
    """Two runs of different lengths trained as a list give the numbers of each alone, random layers included."""
    noisy = ("regularization=[dropout]", "augmentation=[crop]", "seed=1")
    pairs = [(noisy, ("epochs=3", "optimizer=adam"))] * 2
    (a, b), both = [trained(*words) for words in pairs[0]], [make(*words) for words in pairs[1]]
    train(both, EagerProgram())
    for lone, side in ((a, both[0]), (b, both[1])):
        assert torch.equal(weights(lone), weights(side))
        assert numbers(lone.progress.history) == numbers(side.progress.history)


def test_the_row_of_an_epoch():
    """Rows name epoch, step, the mean loss of the epoch's steps, the share of right answers and the rate."""
    run = make("log.every=1")
    lines, rows = told(run)
    train([run], EagerProgram())
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6)]
    assert [step for step, _ in lines] == [1, 2, 3, 4, 5, 6]
    losses = [scalars["train/loss"] for _, scalars in lines]
    assert rows[1]["train_loss"] == pytest.approx(sum(losses[3:]) / 3, rel=1e-12)
    assert all(row["lr"] == 0.1 and 0 <= row["train_accuracy"] <= 1 for row in rows)
    assert rows[0]["seconds"] <= rows[1]["seconds"]


def test_log_every_is_only_how_often_is_told():
    """log.every changes neither the weights nor the rows."""
    often, seldom = trained("log.every=1"), trained("log.every=1000")
    assert torch.equal(weights(often), weights(seldom))
    first, second = often.progress.history, seldom.progress.history
    for a, b in zip(first, second, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-12)
        assert (a["train_accuracy"], a["val_loss"]) == (b["train_accuracy"], b["val_loss"])


# -- the rate -------------------------------------------------------------------------------------------------------


def test_schedule_multiplies_the_rate_of_each_group():
    """Every group's rate is its own times the cosine at each step."""

    def prepare(parts):
        parts.optimizer.param_groups[1]["lr"] = 0.02

    run = make("schedule=cosine", "optimizer.weight_decay=0.01", "log.every=1", prepare=prepare)
    lines, _ = told(run)
    train([run], EagerProgram())
    for step, (_, scalars) in enumerate(lines):
        cosine = 0.5 * (1 + math.cos(math.pi * step / 6))
        assert scalars["lr/weights"] == pytest.approx(0.1 * cosine)
        assert scalars["lr/weights_no_decay"] == pytest.approx(0.02 * cosine)


def test_the_rate_in_force_is_the_schedules():
    """A step moves the weights by the scheduled rate, not by the option's own."""
    run = make("schedule=cosine", "schedule.warmup=1")
    before = weights(run)
    batch, loss = first_look(run)
    run.step(loss, Objective(run, batch, loss, EagerProgram()))
    torch.testing.assert_close(before - weights(run), 0.1 / 4 * gradient(run), rtol=1e-3, atol=1e-7)


def test_schedule_is_told_of_each_epoch():
    """A schedule that listens observes every validation's row."""
    run = make()
    seen = []
    run.schedule.observe = seen.append
    train([run], EagerProgram())
    assert [row["epoch"] for row in seen] == [1, 2] and all("val_loss" in row for row in seen)


# -- precision and layout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_precision_trains(half):
    """bf16 and fp16 train on the CPU: other numbers than fp32, the weights stay fp32, the loss falls."""
    words = ("epochs=8", "optimizer=adam", "optimizer.lr=0.01")
    full, run = trained("precision=fp32", *words), trained(f"precision={half}", *words)
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    assert not torch.equal(weights(full), weights(run))
    history = run.progress.history
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert history[0]["train_loss"] == pytest.approx(full.progress.history[0]["train_loss"], rel=0.02)


def test_channels_last_gives_the_same():
    """Images and kernels really lie channels-last, `auto` chooses it for convolutions, numbers agree to rounding."""
    base = tuple(word for word in SMALL if not word.startswith("model"))
    runs = []
    for layout in ("false", "true", "auto"):
        words = ("model=convnet", "model.channels=[4]", "model.hidden=8", f"channels_last={layout}")
        config = check(composed(*base, *words))
        noise = generator(0, "noise")
        runs.append(TrainState(config, Resources().parts(config, splits(channels=3), CPU, noise), CPU, noise))
    assert [run.memory_format for run in runs] == [torch.contiguous_format] + [torch.channels_last] * 2
    for run, last in zip(runs, (False, True, True), strict=True):
        assert run.next_batch().images.is_contiguous(memory_format=torch.channels_last) is last
        assert run.model.conv1.weight.is_contiguous(memory_format=torch.channels_last) is last
        run._batches = None
        train([run], EagerProgram())
    torch.testing.assert_close(weights(runs[1]), weights(runs[0]), rtol=1e-4, atol=1e-5)
    assert make("channels_last=auto").memory_format == torch.contiguous_format
