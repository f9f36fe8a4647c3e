"""The loop: against plain torch loops written out, and the promises of each of its parts."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from runner.build.check import check
from runner.core import timeline
from runner.core.seeds import generator
from runner.evaluation.metrics import EvaluationResult
from runner.execution.eager import EagerProgram
from runner.model.convnet import ConvNet
from runner.model.mlp import MLP
from runner.task.resources import Resources
from runner.train.batch import Batch
from runner.train.loop import train
from runner.train.program import Objective
from runner.train.progress import Diverged
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


# -- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(), ("regularization=[l2,label_smoothing]",)])
def test_accumulation_is_the_mean_over_the_batch(extra):
    """Micro-batches of unequal sizes (10 as 3, 3, 2, 2) give the loss and gradient of the whole, in float64."""
    found = []
    for parts in (1, 4):
        run = make("batch_size=10", f"accumulate={parts}", *extra)
        run.model.double().train()
        batch = run.next_batch()
        targets = batch.targets.double() if batch.targets.ndim == 2 else batch.targets
        batch = Batch(batch.images.double(), targets, batch.labels)
        (loss,) = EagerProgram().gradients([run], [batch])
        found.append((loss, gradient(run), [len(part.images) for part in batch.split(run.accumulate)]))
    (whole, whole_gradient, _), (pieces, pieces_gradient, sizes) = found
    assert sizes == [3, 3, 2, 2]
    torch.testing.assert_close(pieces, whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(pieces_gradient, whole_gradient, rtol=1e-10, atol=1e-14)


def test_accumulated_training_is_the_same():
    """Whole runs with accumulate=4 and 1 agree to rounding, their accuracy included."""
    one, four = trained(), trained("accumulate=4")
    torch.testing.assert_close(weights(four), weights(one), rtol=1e-5, atol=1e-6)
    assert four.progress.history[0]["train_accuracy"] == one.progress.history[0]["train_accuracy"]


@pytest.mark.parametrize("parts", [1, 4])
def test_clipping_bounds_the_norm(parts):
    """A step of SGD with clip_grad_norm=c moves the weights by rate x c along the gradient; its norm is logged."""
    plain, clipped = make("clip_grad_norm=null"), make("clip_grad_norm=0.01", "log.every=1", f"accumulate={parts}")
    first_look(plain)
    before, wanted = weights(clipped), gradient(plain)
    lines, _ = told(clipped)
    batch, loss = first_look(clipped)
    clipped.step(loss, Objective(clipped, batch, loss, EagerProgram()))
    moved = before - weights(clipped)
    assert wanted.norm() > 0.1
    torch.testing.assert_close(moved, 0.1 * 0.01 * wanted / wanted.norm(), rtol=1e-3, atol=1e-7)
    assert lines[0][1]["grad_norm/before_clipping"] == pytest.approx(wanted.norm().item(), rel=1e-5)


def test_no_clipping_below_the_bound():
    """A bound above every norm changes nothing."""
    assert torch.equal(weights(trained("clip_grad_norm=1000")), weights(trained()))


def test_penalty_enters_loss_gradient_and_log():
    """The L2 item adds weight / 2 x squares to the loss, weight x w to the gradient, and is logged on its own."""
    plain, with_l2 = make(), make("regularization=[l2]", "regularization.l2.weight=0.3", "log.every=1")
    _, loss = first_look(plain)
    batch, penalised = first_look(with_l2)
    squares = sum(p.detach().square().sum() for p in plain.model.parameters() if p.ndim == 2)
    assert penalised.item() == pytest.approx(loss.item() + 0.15 * squares.item(), rel=1e-6)
    for p, q in zip(plain.model.parameters(), with_l2.model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad + (0.3 * p.detach() if p.ndim == 2 else 0))
    lines, _ = told(with_l2)
    with_l2.step(penalised, Objective(with_l2, batch, penalised, EagerProgram()))
    assert lines[0][1]["train/penalty/l2"] == pytest.approx(0.15 * squares.item(), rel=1e-6)


def test_l2_is_weight_decay_where_the_books_say_so():
    """The L2 term equals weight decay under SGD and Adam's coupled kind, but not AdamW's decoupled one."""
    for optimizer, same in (("sgd", True), ("adam", True), ("adamw", False)):
        words = (f"optimizer={optimizer}", "optimizer.lr=0.01", "optimizer.weight_decay=0")
        term = trained(*words, "regularization=[l2]", "regularization.l2.weight=0.1")
        decay = trained(*words[:2], "optimizer.weight_decay=0.1")
        assert torch.allclose(weights(term), weights(decay), rtol=1e-4, atol=1e-5) is same
        assert not torch.allclose(weights(term), weights(trained(*words)), rtol=1e-3, atol=1e-3)


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


# -- ends and choices -----------------------------------------------------------------------------------------------


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


# -- full batch -----------------------------------------------------------------------------------------------------


def test_full_batch(monkeypatch):
    """full_batch: a step an epoch over all 50 images, whose chunks add up to the gradient of the whole."""
    monkeypatch.setattr(timeline, "CHUNK", 16)
    run = make("optimizer.full_batch=true", "epochs=3")
    assert (run.steps, run.steps_per_epoch, run.batch_size, run.accumulate) == (3, 1, 50, 4)
    data = splits()
    images = (data.train.images / 255 - 0.4) / 0.25
    whole = copy.deepcopy(run.model)
    loss = cross_entropy(whole(images), data.train.labels)
    loss.backward()
    _, found = first_look(run)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    wanted = torch.cat([p.grad.flatten() for p in whole.parameters()])
    torch.testing.assert_close(gradient(run), wanted, atol=1e-5, rtol=0)
    run = trained("optimizer.full_batch=true", "epochs=3")
    assert [row["step"] for row in run.progress.history] == [1, 2, 3]
    with torch.no_grad():
        first = (make().model(images).argmax(1) == data.train.labels).double().mean().item()
    assert run.progress.history[0]["train_accuracy"] == pytest.approx(first, abs=1e-9)


# -- the objective --------------------------------------------------------------------------------------------------


class Looks(torch.optim.Optimizer):
    """Asks the objective three times a step and moves nothing."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.losses = []

    def step(self, closure):
        self.losses.append([closure().item() for _ in range(3)])


def test_objective_computes_again_only_when_asked_again():
    """The first call returns the loss that stands; later calls follow the weights and set new gradients."""
    run = make()
    calls = []

    class Counted(EagerProgram):
        def gradients(self, runs, batches):
            calls.append(batches[0].repeated)
            return super().gradients(runs, batches)

    run.model.train()
    batch = run.next_batch()
    (ready,) = Counted().gradients([run], [batch])
    objective = Objective(run, batch, ready, Counted())
    assert objective() is ready and calls == [False]
    old = gradient(run)
    with torch.no_grad():
        for p in run.model.parameters():
            p.mul_(0.5)
    expected = cross_entropy(run.model(batch.images), batch.targets)
    again = objective()
    assert calls == [False, True]
    torch.testing.assert_close(again, expected.detach())
    assert not torch.allclose(gradient(run), old)
    first = gradient(run)
    assert objective() == again and torch.equal(gradient(run), first)  # gradients do not pile up


def test_objective_clips_every_look():
    """Each call leaves gradients within clip_grad_norm."""
    run = make("clip_grad_norm=0.01")
    batch, loss = first_look(run)
    objective = Objective(run, batch, loss, EagerProgram())
    for _ in range(2):
        objective()
        assert gradient(run).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("extra", [(), ("regularization=[l2]",)])
def test_objective_value_and_pieces(extra):
    """`value()` has no graph and leaves gradients alone; the pieces, one a micro-batch, add up to the loss."""
    run = make("accumulate=3", *extra)
    batch, loss = first_look(run)
    objective = Objective(run, batch, loss, EagerProgram())
    before = gradient(run)
    value = objective.value()
    assert not value.requires_grad and torch.equal(gradient(run), before)
    pieces = list(objective.pieces())
    assert len(pieces) == 3 and all(piece.requires_grad for piece in pieces)
    torch.testing.assert_close(value, loss)
    assert sum(pieces).item() == pytest.approx(loss.item(), rel=1e-6)
    grads = torch.autograd.grad(sum(pieces), list(run.model.parameters()))
    torch.testing.assert_close(torch.cat([g.flatten() for g in grads]), before, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("parts", [1, 3])
def test_accuracy_counts_each_image_once(parts):
    """An optimizer that looks three times a step leaves the epoch's accuracy and mean loss what one look gives."""
    run = make(f"accumulate={parts}", "epochs=1")
    run.optimizer = Looks([{"params": list(run.model.parameters()), "name": "weights"}], lr=0.1)
    run.direct = None
    seen = []
    augment = run.augment
    run.augment = lambda *a: seen.append(augment(*a)) or seen[-1]
    model = copy.deepcopy(run.model)
    train([run], EagerProgram())
    with torch.no_grad():
        right = sum((model(batch.images).argmax(1) == batch.labels).sum().item() for batch in seen)
        loss = sum(cross_entropy(model(batch.images), batch.labels).item() for batch in seen) / 3
    row = run.progress.history[0]
    assert row["train_accuracy"] == right / 48
    assert row["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert all(len(set(losses)) == 1 for losses in run.optimizer.losses) or parts > 1


# -- order and draws ------------------------------------------------------------------------------------------------


def images_seen(run):
    """Numbers of the images of each epoch, in the order of training."""
    seen = []
    augment = run.augment

    def spy(images, labels, draws):
        seen.append(images[:, 0, 0, 0].tolist())
        return augment(images, labels, draws)

    run.augment = spy
    train([run], EagerProgram())
    each = len(seen) // 2
    return [sum(seen[epoch * each : (epoch + 1) * each], []) for epoch in range(2)]


def test_order_of_the_epochs():
    """Each epoch has an order of its own without repeats; what fills no batch is left out."""
    first, second = images_seen(make())
    for order in (first, second):
        assert len(order) == len(set(order)) == 48 and set(order) <= set(range(50))
    assert first != second and sorted(first) != first


def test_order_depends_on_the_seed_only():
    """Other batch sizes, optimizers, noise and models see the images in the same order; other seeds do not."""
    first, second = images_seen(make())
    for words in (
        ("optimizer=adam", "optimizer.lr=0.5"),
        ("regularization=[dropout]", "model.hidden=[5,5]"),
        ("accumulate=2", "schedule=cosine"),
    ):
        assert images_seen(make(*words)) == [first, second]
    assert images_seen(make("batch_size=12")) == [first, second]
    assert images_seen(make("seed=1"))[0] != first


def test_global_state_of_torch_is_left_alone():
    """Building and training, dropout and crops included, draw nothing from torch's global generator."""
    state = torch.get_rng_state()
    trained("regularization=[dropout,label_smoothing]", "augmentation=[flip,crop]")
    assert torch.equal(state, torch.get_rng_state())


def test_preview_draws_nothing():
    """The preview shows the first batch's images, and leaves every generator and the run's numbers as they were."""
    words = ("regularization=[dropout]", "augmentation=[flip,crop]")
    plain = trained(*words)
    run = make(*words)
    states = [run.augmenting.get_state(), run.noise.get_state(), torch.get_rng_state()]
    shown = run.preview(4)
    after = [run.augmenting.get_state(), run.noise.get_state(), torch.get_rng_state()]
    assert all(torch.equal(a, b) for a, b in zip(states, after, strict=True))
    assert shown.images.shape == (4, 1, 8, 8)
    assert torch.equal(shown.labels, run.next_batch().labels[:4])
    again = make(*words)
    again.preview(4)
    train([again], EagerProgram())
    assert torch.equal(weights(again), weights(plain))


def test_preview_is_what_the_network_gets():
    """Without augmentation the preview's images are those of the first step."""
    run = make()
    shown = run.preview(5)
    assert torch.equal(shown.images, run.next_batch().images[:5])


def test_mixing_targets():
    """Targets that are probabilities are trained on; accuracy still counts the labels."""
    plain, smooth = make(), make("regularization=[label_smoothing]")
    batch, loss = first_look(smooth)
    assert batch.targets.shape == (16, 3)
    logits = plain.model(batch.images)
    assert loss.item() == pytest.approx(cross_entropy(logits, batch.labels, label_smoothing=0.1).item(), rel=1e-6)


def test_constraints_run_after_each_step():
    """An item's `after_step` sees the model after every update."""
    run = make("regularization=[l2]")
    seen = []

    class Constraint:
        def after_step(self, model: nn.Module):
            seen.append(weights(run))

    run.constraints = [Constraint()]
    train([run], EagerProgram())
    assert len(seen) == 6 and torch.equal(seen[-1], weights(run)) and not torch.equal(seen[0], seen[1])
