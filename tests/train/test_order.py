"""Order of the images and draws of a run."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from runner.execution.eager import EagerProgram
from runner.train.loop import train
from tests.shared.training import first_look, make, trained, weights


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
