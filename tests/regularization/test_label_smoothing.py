"""Label smoothing against its formula and torch's own."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.core.errors import ConfigError
from runner.regularization.base import soft
from runner.regularization.label_smoothing import LabelSmoothing, smooth_labels
from tests.shared.draws import seeded


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_torchs(smoothing):
    """Cross-entropy with smoothed targets is torch's `cross_entropy(label_smoothing=)`."""
    logits, labels = torch.randn(32, 5, generator=seeded()).double(), torch.arange(32) % 5
    targets = LabelSmoothing(smoothing).mix(torch.zeros(32, 1, 1, 1), labels, 5, seeded())[1]
    expected = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, targets.double()), expected, rtol=1e-7, atol=1e-7)


def test_label_smoothing_formula():
    """Labels and soft targets alike become (1 - s) t + s / K, rows that sum to one."""
    labels = torch.tensor([2, 0])
    np.testing.assert_allclose(smooth_labels(labels, 0.3, 3), [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], rtol=1e-6)
    mixed = torch.tensor([[0.6, 0.4, 0.0]])
    np.testing.assert_allclose(smooth_labels(mixed, 0.3, 3), 0.7 * mixed.numpy() + 0.1, rtol=1e-6)
    torch.testing.assert_close(smooth_labels(mixed, 0.3, 3).sum(1), torch.ones(1))


def test_label_smoothing_leaves_images_and_generator():
    """Images pass through; nothing is drawn."""
    images, draws = torch.rand(3, 1, 2, 2), seeded()
    state = draws.get_state()
    assert LabelSmoothing(0.1).mix(images, torch.tensor([0, 1, 2]), 3, draws)[0] is images
    assert torch.equal(state, draws.get_state())


def test_soft():
    """Labels become one-hot rows; probabilities stay as they are."""
    np.testing.assert_array_equal(soft(torch.tensor([1, 0]), 3), [[0, 1, 0], [1, 0, 0]])
    given = torch.rand(2, 3)
    assert soft(given, 3) is given


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_range(smoothing):
    """smoothing is at least 0 and below 1."""
    with pytest.raises(ConfigError, match="regularization.label_smoothing.smoothing=.*at least 0 and below 1"):
        LabelSmoothing(smoothing)
