"""Evaluation of networks on a split: every number against NumPy."""

import numpy as np
import pytest
import torch

from runner.data.splits import ResidentSplit, Splits
from runner.evaluation import evaluate as module
from runner.evaluation.base import Evaluation
from tests.shared.evaluations import CLASSES, data, measure, network


def by_hand(members, splits=None):
    """Mean probabilities [N, K] and labels, in NumPy and float64."""
    splits = splits or data()
    images = splits.test.images.numpy().astype(np.float64) / 255
    images = (images - splits.mean.numpy()[:, None, None]) / splits.std.numpy()[:, None, None]
    rows = images.reshape(len(images), -1)
    total = 0
    for member in members:
        logits = rows @ member[1].weight.detach().numpy().T + member[1].bias.detach().numpy()
        powers = np.exp(logits - logits.max(1, keepdims=True))
        total = total + powers / powers.sum(1, keepdims=True)
    return total / len(members), splits.test.labels.numpy()


@pytest.mark.parametrize("count", [1, 3])
def test_numbers(count):
    """Loss, accuracy and confusion are NumPy's, of one network or of the mean of several networks' probabilities."""
    members = [network(seed) for seed in range(count)]
    found, (probabilities, labels) = measure(members), by_hand(members)
    answers = probabilities.argmax(1)
    assert found.loss == pytest.approx(-np.log(probabilities[np.arange(600), labels]).mean(), rel=1e-5)
    assert found.accuracy == (answers == labels).mean()
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    np.add.at(confusion, (labels, answers), 1)
    np.testing.assert_array_equal(found.confusion, confusion)
    assert found.confusion.dtype == torch.int64 and int(found.confusion.sum()) == 600


def test_members_are_averaged_as_probabilities():
    """The mean of the members is neither of their logits nor of their losses."""
    members = [network(0), network(1)]
    for layer in (members[0][1], members[1][1]):
        layer.weight.data.mul_(5)
    alone = [measure([member]).loss for member in members]
    together = measure(members).loss
    assert together < sum(alone) / 2
    assert measure([members[0], members[0]]).loss == pytest.approx(alone[0], rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 256, 599, 600, 10_000])
def test_batch_size_does_not_matter(batch_size):
    """Every image counts once, whatever the batches are, the last and smaller one included."""
    reference, found = measure([network()], batch_size=256), measure([network()], batch_size=batch_size)
    assert found.loss == pytest.approx(reference.loss, rel=1e-6)
    assert found.accuracy == reference.accuracy and torch.equal(found.confusion, reference.confusion)


@pytest.mark.parametrize(("most", "batch_size", "expected"), [(1 << 22, 64, 256), (2500, 64, 64), (5000, 64, 100)])
def test_batches_fit(monkeypatch, most, batch_size, expected):
    """Batches grow to 256 images where their pixels are few, and never fall below the training batch."""
    monkeypatch.setattr(module, "MOST_PIXELS", most)
    sizes, net = [], network()
    net.register_forward_pre_hook(lambda m, inputs: sizes.append(len(inputs[0])))
    measure([net], batch_size=batch_size)
    assert max(sizes) == sizes[0] == expected and sum(sizes) == 600


def test_certain_and_wrong():
    """A probability that rounds to zero costs what the logits say, not infinitely; a NaN stays one."""
    net = network()
    net[1].weight.data.mul_(1e5)
    loss = measure([net]).loss
    assert 88 < loss < np.inf  # -log of the smallest float32 is 87.3: what is larger is not cut there
    net[1].weight.data.fill_(torch.nan)
    assert np.isnan(measure([net]).loss)


def test_nothing_is_learnt():
    """Evaluation leaves no graph, no gradients, and the networks' mode as it was."""
    net = network()
    measure([net])
    assert all(p.grad is None for p in net.parameters()) and not net.training


def test_precision_of_the_pass():
    """Under bf16 autocast the pass is bf16's, the loss stays near and finite."""
    full = measure([network()])
    half = measure([network()], autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert half.loss != full.loss and half.loss == pytest.approx(full.loss, rel=0.02)


def test_an_evaluation_of_ones_own():
    """The evaluation that is given gets each stored image once, as bytes, and says what the probabilities are."""
    splits, seen = data(), []

    class Sure(Evaluation):
        def log_probabilities(self, model, images, normalize):
            assert normalize(images).dtype == torch.float32 and not model.training
            seen.append(images)
            return torch.eye(CLASSES)[torch.zeros(1, len(images), dtype=torch.long)].log()

    found = measure([network()], splits, evaluation=Sure())
    assert found.accuracy == (splits.test.labels == 0).double().mean().item()
    assert torch.equal(torch.cat(seen), splits.test.images) and seen[0].dtype == torch.uint8


def test_base_leaves_the_answer_to_its_subclasses():
    """The base begins quietly and has no answer of its own."""
    Evaluation().begin([], torch.Generator())
    with pytest.raises(NotImplementedError):
        Evaluation().log_probabilities(network(), None, None)


def test_larger_images_are_cut():
    """Images kept larger than the network's input are measured on their centres."""
    large = data(side=7)
    cut = ResidentSplit(large.test.images[..., 1:6, 1:6].contiguous(), large.test.labels)
    splits = Splits(cut, None, large.test, large.classes, "", large.mean, large.std, 5)
    found = measure([network()], splits)
    same = Splits(cut, None, cut, large.classes, "", large.mean, large.std, 5)
    assert found.loss == pytest.approx(measure([network()], same).loss, rel=1e-7)


def test_a_loss_too_large_for_probabilities_is_not_cut():
    """Where the right class has a probability below the smallest float, the loss is still the logits' difference."""

    class Wild(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([1e29] + [0.0] * (CLASSES - 1)).expand(len(images), CLASSES)

    splits = data()
    share = (splits.test.labels != 0).double().mean().item()
    assert measure([Wild()]).loss == pytest.approx(1e29 * share, rel=1e-5)
