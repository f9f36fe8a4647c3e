"""The L2 penalty against its formula."""

import numpy as np
import pytest
import torch

from runner.regularization.base import weights
from runner.regularization.l2 import L2
from tests.shared.stack_items import networks


def test_l2_formula():
    """weight / 2 x the sum of squares of matrices and kernels, no biases and no norms; its gradient is weight x w."""
    for model in networks().values():
        penalty = L2(0.02).penalty(model)
        kernels = {n: p for n, p in model.named_parameters() if p.ndim >= 2}
        assert set(kernels) < set(dict(model.named_parameters()))
        squares = sum(np.square(p.detach().double().numpy()).sum() for p in kernels.values())
        assert penalty.item() == pytest.approx(0.01 * squares, rel=1e-5)
        penalty.backward()
        for name, p in model.named_parameters():
            if name in kernels:
                torch.testing.assert_close(p.grad, 0.02 * p.detach())
            else:
                assert p.grad is None


def test_l2_leaves_frozen_weights_out():
    """Weights that are not trained are not in the penalty."""
    model = networks()["mlp"]
    model.linear1.weight.requires_grad_(False)
    assert len(weights(model)) == 2
    rest = model.linear2.weight.square().sum() + model.head.weight.square().sum()
    torch.testing.assert_close(L2(2.0).penalty(model), rest)
