"""SAM against two steps written out, Muon against torch's own, and closures."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from runner.optimizer.adam import Adam
from runner.optimizer.lion import Lion
from runner.optimizer.muon import Muon
from runner.optimizer.sam import SAM
from tests.shared.optimizer_problems import START, build, classifier, function, gradient

LR, DECAY, STEPS = 0.05, 0.1, 20


def test_sam_is_two_explicit_steps():
    """Up the gradient by rho, the gradient there, and the base's step from the old weights; 20 times, over groups."""
    a, b, v = START[:2], START[2:], [0, 0]
    w = [torch.tensor(part, requires_grad=True) for part in (a, b)]

    def objective():
        together = gradient(np.concatenate([p.detach().numpy() for p in w]))
        w[0].grad, w[1].grad = torch.tensor(together[:2]), torch.tensor(together[2:])
        return torch.zeros(())

    groups = [{"params": [w[0]]}, {"params": [w[1]], "weight_decay": 0.0}]
    optimizer = SAM(groups, LR, partial(torch.optim.SGD, momentum=0.9, weight_decay=DECAY), rho=0.3)
    x = [a, b]
    for _ in range(STEPS):
        optimizer.step(objective)
        g = gradient(np.concatenate(x))
        up = np.concatenate(x) + 0.3 * g / np.linalg.norm(g)
        g = gradient(up)
        for i, (part, decay) in enumerate(((g[:2], DECAY), (g[2:], 0.0))):
            v[i] = 0.9 * v[i] + part + decay * x[i]
            x[i] = x[i] - LR * v[i]
            np.testing.assert_allclose(w[i].detach().numpy(), x[i], rtol=1e-9)


def test_sam_without_a_radius_is_its_base():
    """rho=0: bit for bit."""
    results = []
    for words in (("optimizer=sam", "optimizer.rho=0"), ("optimizer=momentum",)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3))
        objective = classifier(model, torch.ones(4, 4), torch.tensor([0, 1, 2, 0]))
        optimizer = build(model, *words)
        for _ in range(5):
            objective()
            optimizer.step(objective)
        results.append(model[0].weight.detach().clone())
    assert torch.equal(*results)


def test_muon_is_torchs_and_adamw():
    """Matrices and flattened kernels follow torch.optim.Muon, vectors torch.optim.AdamW, bit for bit."""
    torch.manual_seed(0)
    shapes = [(5, 3), (4, 2, 3, 3), (4,)]
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    flat = [p.detach().flatten(1).clone().requires_grad_() for p in ours[:2]]
    bias = ours[2].detach().clone().requires_grad_()
    optimizer = Muon(ours, lr=0.02, weight_decay=0.1)
    theirs = torch.optim.Muon(flat, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    rest = torch.optim.AdamW([bias], lr=0.02, weight_decay=0.1)
    for _ in range(STEPS):
        for p, other in zip(ours, [*flat, bias]):
            p.grad = torch.randn(p.shape)
            other.grad = p.grad.reshape(other.shape).clone()
        for one in (optimizer, theirs, rest):
            one.step()
        assert all(torch.equal(p.reshape(other.shape), other) for p, other in zip(ours, [*flat, bias]))


def test_muons_step_is_nearly_orthogonal():
    """The step's singular values lie near 0.2 sqrt(max(A, B)) times the rate, whatever the gradient's are."""
    w = torch.zeros(6, 4, requires_grad=True)
    optimizer = Muon([w], lr=1.0, weight_decay=0.0)
    w.grad = torch.tensor(np.random.default_rng(0).normal(size=(6, 4)), dtype=torch.float32)
    optimizer.step()
    values = torch.linalg.svdvals(w.detach()) / (0.2 * 6**0.5)
    assert values.min() > 0.5 and values.max() < 1.5
    assert (w.detach() * w.grad).sum() < 0


@pytest.mark.parametrize("make", [Lion, Adam, Muon, lambda p, lr: Adam(p, lr, bias_correction=False)])
def test_a_closure_is_called_with_gradients_on(make):
    """`step(closure)` evaluates it once and returns its loss; parameters without a gradient stay."""
    w, problem = function(lambda p: (p**2).sum(), [[1.0, 2.0], [3.0, 4.0]])
    idle = torch.ones(2, 2, requires_grad=True)
    assert make([w, idle], lr=0.1).step(problem) == 30.0
    assert problem.calls == 1 and torch.equal(idle, torch.ones(2, 2)) and problem.value() < 30
