"""Max-norm: rows and filters after a step, and the parameters it leaves alone."""

import numpy as np
import pytest
import torch
from torch import nn

from runner.regularization.base import weights
from runner.regularization.max_norm import MaxNorm
from runner.regularization.weight_standardization import WeightStandardization
from tests.shared.norms import CONVNET, networks
from tests.shared.training import make, trained


def rows(weight):
    return np.sqrt(np.square(weight.detach().double().numpy().reshape(len(weight), -1)).sum(1))


@pytest.mark.parametrize(("optimizer", "rate", "bound"), [("sgd", 0.2, 0.55), ("adam", 0.002, 0.59)])
def test_max_norm_after_a_step(optimizer, rate, bound):
    """A run's step is the optimizer's, then every row or filter longer than the bound is scaled to it; biases stay."""
    words = (*CONVNET, f"optimizer={optimizer}", f"optimizer.lr={rate}")
    free, bounded = (
        make(*words, *more) for more in ((), ("regularization=[max_norm]", f"regularization.max_norm.max_norm={bound}"))
    )
    steps = []
    for run in (free, bounded):
        batch = run.next_batch()
        loss = run.loss(batch)
        loss.backward()
        run.step(loss.detach(), lambda: loss)  # noqa: B023
        steps.append(dict(run.model.named_parameters()))
    touched = 0
    for name, weight in steps[0].items():
        found, expected = steps[1][name].detach().numpy(), weight.detach().numpy()
        if weight.ndim >= 2:
            norms = rows(weight)
            touched += (norms > bound).sum()
            factor = np.minimum(1, bound / norms).reshape(-1, *[1] * (weight.ndim - 1))
            expected = expected * factor
            assert rows(steps[1][name]).max() <= bound * (1 + 1e-6)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert touched > 3 and any((rows(w) < bound * 0.99).any() for w in steps[0].values() if w.ndim >= 2)


def test_max_norm_reaches_parametrized_weights():
    """The weights below a parametrization are bounded, whatever the layer makes of them."""
    model = networks()["convnet"]
    WeightStandardization().modify(model, None)
    MaxNorm(0.1).after_step(model)
    assert rows(model.conv1.parametrizations.weight.original).max() <= 0.1 + 1e-6
    assert rows(model.conv1.weight)[0] == pytest.approx(3, rel=1e-3)  # 9 weights of deviation 1
    assert rows(model.hidden.weight).max() <= 0.1 + 1e-6


def test_max_norm_leaves_what_enters_no_unit_or_does_not_train():
    """Position embeddings, biases, norms and frozen layers keep their values; attention's rows are bounded."""
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.LayerNorm(4), nn.Linear(4, 2))
    model.positions, model.token = nn.Parameter(torch.zeros(5, 4)), nn.Parameter(torch.zeros(1, 1, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(10)
    model[0].requires_grad_(False)
    MaxNorm(2.0).after_step(model)
    changed = {name for name, parameter in model.named_parameters() if (parameter != 10).any()}
    assert changed == {"1.in_proj_weight", "1.out_proj.weight", "3.weight"}
    np.testing.assert_allclose(rows(model[1].in_proj_weight), 2, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", "newton_cg"])
def test_max_norm_holds_under_a_full_batch_optimizer(optimizer):
    """A step that looks at the loss several times begins where the last one's bounded weights are."""
    words = ("regularization=[max_norm]", "regularization.max_norm.max_norm=0.5")
    words = (*words, f"optimizer={optimizer}", "optimizer.full_batch=true", "optimizer.lr=0.1")
    run, again = trained(*words, "epochs=1"), trained(*words, "epochs=2")
    assert max(rows(w).max() for w in weights(run.model)) == pytest.approx(0.5, rel=1e-4)
    batch = run.preview(len(run.train_split))
    loss = nn.functional.cross_entropy(run.model(batch.images), batch.targets)
    assert again.progress.history[1]["train_loss"] == pytest.approx(loss.item(), rel=1e-4)
