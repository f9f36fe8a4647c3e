"""Metrics of an evaluation: calibration, mistakes and uncertainty against their formulas."""

import contextlib

import numpy as np
import pytest
import torch

from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit, Splits
from runner.evaluation.base import Evaluation
from runner.evaluation.evaluate import examine
from runner.evaluation.metrics import calibration_error, mean_log, spread
from runner.evaluation.standard import Standard
from tests.shared.evaluations import CLASSES, data, measure, network


class Told(Evaluation):
    """Answers with probabilities [S, N, K] that were written down, in the order of the images."""

    def __init__(self, passes):
        self.passes, self.done = torch.as_tensor(passes, dtype=torch.float32).log(), 0

    def log_probabilities(self, model, images, normalize):
        self.done += len(images)
        return self.passes[:, self.done - len(images) : self.done]


def look(passes, labels, batch_size=64):
    """`examine` of a network that gives `passes` [S, N, K] or [N, K]."""
    passes = np.asarray(passes, dtype=np.float32)
    passes = passes[None] if passes.ndim == 2 else passes
    count, classes = passes.shape[1:]
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    split = ResidentSplit(images, torch.as_tensor(labels))
    splits = Splits(split, None, split, tuple(map(str, range(classes))), "", torch.zeros(1), torch.ones(1), 2)
    normalize = Normalize(splits, torch.device("cpu"), torch.contiguous_format)
    return examine([network()], split, normalize, contextlib.nullcontext, batch_size, classes, Told(passes))


def told(passes=1, count=700, classes=12, seed=0, sharp=3.0):
    """Random probabilities [S, N, K] that agree more or less, and labels that often follow them."""
    draws = np.random.default_rng(seed)
    logits = sharp * draws.normal(size=(count, classes)) + draws.normal(size=(passes, count, classes))
    powers = np.exp(logits)
    chances = (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
    wanted = chances.mean(0, dtype=np.float64)
    labels = np.array([draws.choice(classes, p=row / row.sum()) for row in wanted])
    return chances, labels


@pytest.mark.parametrize("passes", [1, 5])
def test_a_closer_look_begins_with_the_plain_numbers(passes):
    """Loss, accuracy and confusion are those of the passes' mean probability, and `evaluate`'s."""
    chances, labels = told(passes)
    found, mean = look(chances, labels), chances.astype(np.float64).mean(0)
    assert found.loss == pytest.approx(-np.log(mean[np.arange(700), labels]).mean(), rel=1e-5)
    assert found.accuracy == (mean.argmax(1) == labels).mean()
    confusion = np.zeros((12, 12), dtype=np.int64)
    np.add.at(confusion, (labels, mean.argmax(1)), 1)
    np.testing.assert_array_equal(found.confusion, confusion)
    splits, net = data(), network()
    normalize = Normalize(splits, torch.device("cpu"), torch.contiguous_format)
    seen = examine([net], splits.test, normalize, contextlib.nullcontext, 64, CLASSES, Standard())
    plain = measure([net], splits)
    assert (seen.loss, seen.accuracy) == (plain.loss, plain.accuracy)
    assert torch.equal(seen.confusion, plain.confusion)


@pytest.mark.parametrize("classes", [10, 11, 30])
def test_top5(classes):
    """Above ten classes an answer among the five best counts as NumPy counts it; else there is no such number."""
    chances, labels = told(classes=classes, sharp=1.0)
    found = look(chances, labels).top5_accuracy
    if classes == 10:
        assert found is None
    else:
        five = np.argsort(-chances[0], axis=1)[:, :5]
        expected = (five == labels[:, None]).any(1).mean()
        assert found == pytest.approx(expected, abs=1e-12) and 0.4 < found < 0.99


def reference_calibration(confidence, right):
    """Guo et al. 2017, equation 3, as it stands there."""
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize(("seed", "sharp"), [(0, 1.0), (1, 3.0), (2, 8.0)])
def test_calibration_error(seed, sharp):
    """The expected calibration error is the paper's, over 15 bins of confidence."""
    chances, labels = told(seed=seed, sharp=sharp)
    confidence, right = chances[0].max(1).astype(np.float64), chances[0].argmax(1) == labels
    assert look(chances, labels).calibration_error == pytest.approx(reference_calibration(confidence, right), abs=1e-7)


@pytest.mark.parametrize(
    ("sure", "right", "expected"),
    [
        (1.0, [1, 0, 1, 0], 0.5),  # always certain, right half the time
        (0.75, [1, 1, 1, 0], 0.0),  # as often right as it says
        (1.0, [1, 1, 1, 1], 0.0),
        (0.6, [0, 0, 0, 0], 0.6),
    ],
)
def test_calibration_of_known_cases(sure, right, expected):
    """Known answers to four questions."""
    chances = np.tile([sure, 1 - sure, 0.0], (4, 1))
    labels = np.where(right, 0, 2)
    assert look(chances, labels).calibration_error == pytest.approx(expected, abs=1e-6)


def test_calibration_does_not_let_bins_cancel():
    """Too sure in one bin and too modest in another is no calibration; within one bin it is."""
    apart = torch.tensor([0.95] * 10 + [0.55] * 10).double()
    half = torch.tensor([1] * 5 + [0] * 5 + [1] * 9 + [0]).double()
    assert calibration_error(apart, half) == pytest.approx((0.45 + 0.35) / 2)
    together = torch.tensor([0.75, 0.77]).double()
    assert calibration_error(together, torch.tensor([1.0, 0.52]).double()) == pytest.approx(0.0, abs=1e-9)


def test_calibration_bins_hold_their_upper_edge():
    """A confidence of 3/15 is in the third bin, the next larger one in the fourth."""
    edge = torch.tensor([3 / 15, np.nextafter(3 / 15, 1), 1.0, np.nextafter(1 / 15, 0)]).double()
    confidence, right = edge[[0, 1]], torch.tensor([1.0, 0.0]).double()
    assert calibration_error(confidence, right) == pytest.approx((0.8 + 0.2) / 2)  # in one bin it were 0.3
    assert calibration_error(edge[[2, 3]], torch.tensor([1.0, 1.0]).double()) == pytest.approx(14 / 30)


def test_calibration_of_many_images():
    """60,000 nearly certain answers add up without drift."""
    confidence = np.float32(0.9985) + np.linspace(0, 1e-6, 60_000, dtype=np.float32)
    chances = np.stack([confidence, 1 - confidence], 1)
    found = look(chances, np.zeros(60_000, dtype=np.int64), batch_size=1000).calibration_error
    assert found == pytest.approx(1 - confidence.astype(np.float64).mean(), rel=1e-6)


def test_class_accuracy():
    """The share of each class that was recognised; none for a class without images."""
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    chances = np.full((7, 4), 0.1) + 0.6 * np.eye(4)[[0, 0, 0, 1, 1, 2, 3]]
    assert look(chances, labels).class_accuracy == [0.75, 0.5, None, 1.0]


@pytest.mark.parametrize("batch_size", [64, 256, 5000])
def test_mistakes_are_the_worst_wrong_answers(batch_size):
    """The wrong answers of the highest losses over all batches, the worst first, with what was said and how surely."""
    chances, labels = told()
    found, said = look(chances, labels, batch_size), chances[0].argmax(1)
    wrong = np.flatnonzero(said != labels)
    assert 24 < len(wrong) < 600
    losses = -np.log(chances[0].astype(np.float64)[wrong, labels[wrong]])
    worst = wrong[np.argsort(-losses)][:24]
    np.testing.assert_array_equal(found.mistakes, worst)
    np.testing.assert_array_equal(found.answers, said[worst])
    np.testing.assert_allclose(found.confidence, chances[0].max(1)[worst], rtol=1e-6)


def test_right_answers_are_no_mistakes():
    """However unsure, a right answer is none; without a wrong one there are none."""
    labels = np.arange(40) % 3
    chances = np.full((40, 3), 0.3) + 0.1 * np.eye(3)[labels]
    assert len(look(chances, labels).mistakes) == 0
    labels[7] = (labels[7] + 1) % 3
    assert look(chances, labels).mistakes.tolist() == [7]


def test_how_passes_differ():
    """Spread and mutual information are their formulas', on average over all, right and wrong answers."""
    chances, labels = told(passes=6)
    exact = chances.astype(np.float64)
    mean, entropy = exact.mean(0), lambda p: -(p * np.log(p)).sum(-1)
    said = mean.argmax(1)
    deviation = exact.std(0)[np.arange(700), said]
    information = entropy(mean) - entropy(exact).mean(0)
    found, right = look(chances, labels).uncertainty, said == labels
    expected = {
        f"{name}{part}": values[chosen].mean()
        for name, values in (("spread", deviation), ("mutual_information", information))
        for part, chosen in (("", right | True), ("_right", right), ("_wrong", ~right))
    }
    assert found == pytest.approx(expected, rel=1e-4)
    passes = torch.from_numpy(chances).log()
    np.testing.assert_allclose(spread(passes, mean_log(passes)), [deviation, information], rtol=1e-3, atol=1e-6)


def test_information_of_known_cases():
    """Passes that agree tell nothing apart; two that are sure of different answers differ by log 2, one bit."""
    agree = torch.tensor([[[0.7, 0.2, 0.1]]] * 3).log()
    assert spread(agree, mean_log(agree)).flatten().tolist() == pytest.approx([0, 0], abs=1e-6)
    assert (spread(agree, mean_log(agree)) >= 0).all()
    argue = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
    assert spread(argue, mean_log(argue)).flatten().tolist() == pytest.approx([0.5, np.log(2)])


def test_one_pass_has_no_uncertainty():
    """There is nothing to compare; and where every answer is right there is no mean over wrong ones."""
    assert look(*told(passes=1)).uncertainty is None
    certain = np.tile(np.eye(3)[[0, 1, 2]], (2, 1, 1))
    found = look(certain, np.arange(3)).uncertainty
    assert set(found) == {"spread", "spread_right", "mutual_information", "mutual_information_right"}


def test_members_and_passes_are_one_mean():
    """Two members of three passes each are six passes."""

    class Shifted(Evaluation):
        def log_probabilities(self, model, images, normalize):
            logits = model(normalize(images))
            return torch.stack([(logits * k).log_softmax(-1) for k in (1, 2, 3)])

    members, splits = [network(0), network(1)], data()
    inputs = Normalize(splits, torch.device("cpu"), torch.contiguous_format)(splits.test.images)
    with torch.no_grad():
        mean = sum((m(inputs).double() * k).softmax(-1) for m in members for k in (1, 2, 3)) / 6
    loss = -mean[torch.arange(600), splits.test.labels].log().mean().item()
    assert measure(members, splits, evaluation=Shifted()).loss == pytest.approx(loss, rel=1e-6)


def test_a_network_that_is_lost():
    """Where it says NaN, so do the measures, and the images are mistakes; the others are measured as they are."""
    chances, labels = np.tile([0.8, 0.1, 0.1], (300, 1)), np.zeros(300, dtype=np.int64)
    labels[[5, 200]] = 2
    chances[200] = np.nan
    found = look(chances, labels)
    assert np.isnan(found.loss) and np.isnan(found.calibration_error)
    assert found.mistakes.tolist() == [200, 5] and found.answers[1] == 0
    assert found.accuracy == pytest.approx(298 / 300) and int(found.confusion.sum()) == 300
