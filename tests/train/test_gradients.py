"""Gradients of a step: accumulation, clipping, penalties, full batches and the objective."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.core import timeline
from runner.execution.eager import EagerProgram
from runner.train.batch import Batch
from runner.train.loop import train
from runner.train.program import Objective
from tests.shared.training import first_look, gradient, make, splits, told, trained, weights

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
