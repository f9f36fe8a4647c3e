"""Classes that are not there change no number of those that are."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.evaluation.softmax import log_softmax, padded


@pytest.mark.parametrize("classes", [2, 3, 10, 15, 16, 17, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_torch(classes, dtype):
    """Of the logarithm of the softmax, and of the loss that is taken of padded logits."""
    draws = torch.Generator().manual_seed(classes)
    logits = (5 * torch.randn(4, 7, classes, generator=draws, dtype=dtype)).requires_grad_()
    targets = torch.randint(classes, (28,), generator=draws)
    wanted = logits.log_softmax(-1)
    found = log_softmax(logits)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(wanted.shape, generator=draws, dtype=dtype)
    for pair in (
        ((wanted * weights).sum(), (found * weights).sum()),
        (cross_entropy(logits.flatten(0, 1), targets), cross_entropy(padded(logits).flatten(0, 1), targets)),
    ):
        torch.testing.assert_close(*pair)
        gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in pair]
        assert gradients[1].isfinite().all()
        torch.testing.assert_close(*gradients)


def test_a_row_depends_on_no_other():
    """Bit for bit: what stands before or after it, and how much, changes nothing."""
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    whole = log_softmax(logits)
    for first, last in ((0, 1), (3, 20), (17, 50)):
        assert torch.equal(log_softmax(logits[first:last]), whole[first:last])


def test_what_is_no_number_stays_none():
    """An infinite or missing logit is not hidden by classes that are not there."""
    logits = torch.zeros(3, 10)
    logits[0, 2], logits[1, 2], logits[2] = torch.nan, torch.inf, -torch.inf
    assert torch.equal(log_softmax(logits).isnan(), logits.log_softmax(-1).isnan())


def test_only_few_classes_are_padded():
    """Where it gains."""
    assert padded(torch.zeros(2, 10)).shape == (2, 16)
    assert padded(torch.zeros(2, 16)).shape == (2, 16) and padded(torch.zeros(2, 100)).shape == (2, 100)
    assert padded(torch.zeros(2, 10, device="meta")).shape == (2, 10)
