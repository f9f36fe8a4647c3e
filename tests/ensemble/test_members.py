"""Means of answers: loss, accuracy, gain and disagreement of members by hand."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit
from runner.evaluation.base import Member
from runner.evaluation.evaluate import evaluate, examine
from runner.evaluation.metrics import ensembles
from runner.evaluation.standard import Standard
from runner.task.ensemble_facts import compare_members, draw
from tests.shared.training import CPU, splits


def linear(seed, classes=3, pixels=64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()
    return model.requires_grad_(False)


def by_hand(members, images, average):
    """Probabilities [M, N, K] of the first 1, 2, ... members, in NumPy and float64."""
    logits = np.stack([m[1].bias.numpy() + images @ m[1].weight.double().numpy().T for m in members])
    soft = lambda x: np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)  # noqa: E731
    counts = np.arange(1, len(members) + 1)[:, None, None]
    if average == "logits":
        return soft(np.cumsum(logits, 0) / counts), soft(logits)
    return np.cumsum(soft(logits), 0) / counts, soft(logits)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("count", [2, 4])
def test_answers_of_members(average, count):
    """Loss, accuracies, gain, disagreement and the curve are those of NumPy's means."""
    data, members = splits(), [linear(seed) for seed in range(count)]
    normalize = Normalize(data, CPU, torch.contiguous_format)
    images = normalize(data.train.images).flatten(1).double().numpy()
    labels = data.train.labels.numpy()
    grown, alone = by_hand(members, images, average)
    found = examine(members, data.train, normalize, contextlib.nullcontext, 16, 3, Standard(), average)
    assert found.loss == pytest.approx(-np.log(grown[-1][np.arange(50), labels]).mean(), rel=1e-5)
    assert found.accuracy == (grown[-1].argmax(1) == labels).mean()
    facts, said = found.ensemble, alone.argmax(-1)
    assert facts["members"] == (said == labels).mean(1).tolist()
    assert facts["curve"] == (grown.argmax(-1) == labels).mean(1).tolist()
    assert facts["mean"] == pytest.approx((said == labels).mean())
    assert facts["gain"] == pytest.approx(found.accuracy - (said == labels).mean())
    pairs = [(said[i] != said[j]).mean() for i in range(count) for j in range(i)]
    assert facts["disagreement"] == pytest.approx(np.mean(pairs))
    plain = evaluate(members, data.train, normalize, contextlib.nullcontext, 16, 3, average=average)
    assert (plain.loss, plain.accuracy) == (found.loss, found.accuracy)


def test_the_two_averages_differ():
    """The mean of logits is no mean of probabilities; of one member both are itself."""
    logs = torch.tensor([[[0.98, 0.01, 0.01]], [[0.2, 0.5, 0.3]]]).log()
    np.testing.assert_allclose(ensembles(logs, "probabilities")[-1].exp(), [[0.59, 0.255, 0.155]], rtol=1e-5)
    geometric = np.sqrt(np.array([0.98 * 0.2, 0.01 * 0.5, 0.01 * 0.3]))
    np.testing.assert_allclose(ensembles(logs, "logits")[-1].exp()[0], geometric / geometric.sum(), rtol=1e-5)
    assert torch.equal(ensembles(logs[:1], "logits"), logs[:1])


def test_one_network_is_no_ensemble():
    """Its result says nothing of members."""
    data = splits()
    normalize = Normalize(data, CPU, torch.contiguous_format)
    found = examine([linear(0)], data.train, normalize, contextlib.nullcontext, 16, 3, Standard())
    assert found.ensemble is None


def test_members_of_other_sizes_and_normalisations():
    """Each member sees the images in its own size, through its own normalisation, and with its own evaluation."""
    data = splits()
    small = ResidentSplit(data.train.images[..., 2:6, 2:6].contiguous(), data.train.labels)
    other = splits()
    object.__setattr__(other, "mean", torch.tensor([0.1]))
    object.__setattr__(other, "size", 4)
    normals = [Normalize(one, CPU, torch.contiguous_format) for one in (data, other)]
    models = [linear(0), linear(1, pixels=16)]
    asked = []

    class Counting(Standard):
        def log_probabilities(self, model, images, normalize):
            asked.append((id(model), tuple(images.shape[1:])))
            return super().log_probabilities(model, images, normalize)

    members = [
        Member(models[0], normals[0], data.train, Counting()),
        Member(models[1], normals[1], small, Standard()),
    ]
    found = examine(members, data.train, normals[0], contextlib.nullcontext, 64, 3, Standard())
    chances = [
        model(normal(split.images)).softmax(-1).double()
        for model, normal, split in zip(models, normals, (data.train, small))
    ]
    mean = (chances[0] + chances[1]) / 2
    expected = -mean[torch.arange(50), data.train.labels].log().mean()
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert asked == [(id(models[0]), (1, 8, 8))]


def test_a_mean_of_weights_beside_what_went_in():
    """The gain is over the mean of the networks that were averaged."""
    facts = compare_members(0.9, [0.8, 0.84])
    assert facts["members"] == [0.8, 0.84] and facts["mean"] == pytest.approx(0.82)
    assert facts["gain"] == pytest.approx(0.08) and facts["curve"] is None


def test_picture():
    """The curve is drawn: ink on white, of a readable size."""
    image = draw(
        {"members": [0.8, 0.81], "mean": 0.805, "gain": 0.02, "disagreement": 0.1, "curve": [0.8, 0.825]}, "test"
    )
    assert image.dtype == np.uint8 and image.shape[0] > 300 and 0.5 < (image == 255).mean() < 0.99
