"""Every first-order update against its formula in NumPy float64, written out from the paper."""

import numpy as np
import pytest
import torch
from torch import nn

from runner.optimizer.adam import Adam
from tests.shared.optimizer_problems import START, build, gradient, regression

LR, DECAY, STEPS = 0.05, 0.1, 20


def sgd(w, g, m, t):
    return w - LR * (g + DECAY * w)


def momentum(w, g, m, t):
    m["v"] = 0.9 * m.get("v", 0) + g + DECAY * w
    return w - LR * m["v"]


def nesterov(w, g, m, t):
    g = g + DECAY * w
    m["v"] = 0.9 * m.get("v", 0) + g
    return w - LR * (g + 0.9 * m["v"])


def adagrad(w, g, m, t):
    g = g + DECAY * w
    m["s"] = m.get("s", 0) + g**2
    return w - LR * g / (np.sqrt(m["s"]) + 1e-10)


def rmsprop(w, g, m, t, alpha=0.99):
    g = g + DECAY * w
    m["s"] = alpha * m.get("s", 0) + (1 - alpha) * g**2
    return w - LR * g / (np.sqrt(m["s"]) + 1e-8)


def averages(g, m, beta1=0.9, beta2=0.999):
    m["m"] = beta1 * m.get("m", 0) + (1 - beta1) * g
    m["v"] = beta2 * m.get("v", 0) + (1 - beta2) * g**2
    return m["m"], m["v"]


def adam(w, g, m, t):
    first, second = averages(g + DECAY * w, m)
    return w - LR * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)


def adam_uncorrected(w, g, m, t):
    first, second = averages(g + DECAY * w, m)
    return w - LR * first / (np.sqrt(second) + 1e-8)


def adamw(w, g, m, t):
    first, second = averages(g, m)
    return w - LR * (first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8) + DECAY * w)


def nadam(w, g, m, t):
    g = g + DECAY * w
    first, second = averages(g, m)
    now, later = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * s)) for s in (t, t + 1))
    m["product"] = m.get("product", 1) * now
    ahead = later * first / (1 - m["product"] * later) + (1 - now) * g / (1 - m["product"])
    return w - LR * ahead / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)


def radam(w, g, m, t):
    first, second = averages(g + DECAY * w, m)
    first = first / (1 - 0.9**t)
    most = 2 / (1 - 0.999) - 1
    rho = most - 2 * t * 0.999**t / (1 - 0.999**t)
    if rho <= 5:
        return w - LR * first
    r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return w - LR * first * r * np.sqrt(1 - 0.999**t) / (np.sqrt(second) + 1e-8)


def adamax(w, g, m, t):
    g = g + DECAY * w
    m["m"] = 0.9 * m.get("m", 0) + 0.1 * g
    m["u"] = np.maximum(0.999 * m.get("u", 0), np.abs(g) + 1e-8)
    return w - LR / (1 - 0.9**t) * m["m"] / m["u"]


def adadelta(w, g, m, t):
    g = g + DECAY * w
    m["g"] = 0.9 * m.get("g", 0) + 0.1 * g**2
    step = np.sqrt(m.get("x", 0) + 1e-6) / np.sqrt(m["g"] + 1e-6) * g
    m["x"] = 0.9 * m.get("x", 0) + 0.1 * step**2
    return w - LR * step


def adafactor(w, g, m, t):
    rms = lambda x: np.sqrt(np.mean(x**2))  # noqa: E731
    rate, beta = max(1e-3, rms(w)) * min(LR, 1 / np.sqrt(t)), 1 - t**-0.8
    w = w * (1 - LR * DECAY)
    m["r"] = beta * m.get("r", 0) + (1 - beta) * (g**2).mean(1)
    m["c"] = beta * m.get("c", 0) + (1 - beta) * (g**2).mean(0)
    update = g / np.sqrt(np.outer(m["r"], m["c"]) / m["r"].mean())
    return w - rate * update / max(1, rms(update))


def lion(w, g, m, t):
    update = np.sign(0.9 * m.get("m", 0) + 0.1 * g) + DECAY * w
    m["m"] = 0.99 * m.get("m", 0) + 0.01 * g
    return w - LR * update


CASES = {
    "sgd": (sgd, "optimizer=sgd"),
    "momentum": (momentum, "optimizer=momentum"),
    "nesterov": (nesterov, "optimizer=nesterov"),
    "adagrad": (adagrad, "optimizer=adagrad"),
    "rmsprop": (rmsprop, "optimizer=rmsprop"),
    "rmsprop 0.9": (lambda *a: rmsprop(*a, alpha=0.9), "optimizer=rmsprop", "optimizer.alpha=0.9"),
    "adam": (adam, "optimizer=adam"),
    "adam uncorrected": (adam_uncorrected, "optimizer=adam", "optimizer.bias_correction=false"),
    "adamw": (adamw, "optimizer=adamw"),
    "nadam": (nadam, "optimizer=nadam"),
    "radam": (radam, "optimizer=radam"),
    "adamax": (adamax, "optimizer=adamax"),
    "adadelta": (adadelta, "optimizer=adadelta"),
    "adafactor": (adafactor, "optimizer=adafactor"),
    "lion": (lion, "optimizer=lion"),
}


class Matrix(nn.Module):
    """A lone weight matrix, so that an option of the configs can be built over it."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        self.layer.weight = nn.Parameter(weight)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_the_formula(case):
    """The option as configured, with a decay, follows the paper's formula on a softmax regression."""
    formula, *words = CASES[case]
    model = Matrix(torch.tensor(START))
    optimizer = build(model, *words, f"optimizer.lr={LR}", f"optimizer.weight_decay={DECAY}")
    w, memory = START, {}
    for t in range(1, STEPS + 1):
        model.layer.weight.grad = torch.tensor(gradient(model.layer.weight.detach().numpy()))
        optimizer.step()
        w = formula(w, gradient(w), memory, t)
        np.testing.assert_allclose(model.layer.weight.detach().numpy(), w, rtol=1e-7, atol=1e-8)


def test_the_problem_has_the_gradient_written_by_hand():
    """Automatic differentiation agrees with the formula that the references use."""
    w, problem = regression()
    problem()
    np.testing.assert_allclose(w.grad.numpy(), gradient(START), rtol=1e-12)


def test_the_two_forms_of_nesterov_agree():
    """The lecture's look-ahead `v = r v - lr f'(x + r v); x += v` is torch's, seen from x + r v."""
    x, v = START.copy(), np.zeros_like(START)
    w = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=LR, momentum=0.9, nesterov=True)
    for _ in range(STEPS):
        v = 0.9 * v - LR * gradient(x + 0.9 * v)
        x = x + v
        w.grad = torch.tensor(gradient(w.detach().numpy()))
        optimizer.step()
        np.testing.assert_allclose(w.detach().numpy(), x + 0.9 * v, rtol=1e-10)


def test_adam_with_its_correction_is_torchs():
    """Bit for bit, decay included."""
    ours, theirs = (torch.tensor(START, dtype=torch.float32, requires_grad=True) for _ in range(2))
    pair = Adam([ours], 0.01, weight_decay=0.1), torch.optim.Adam([theirs], 0.01, weight_decay=0.1)
    for _ in range(STEPS):
        for w, optimizer in zip((ours, theirs), pair):
            w.grad = torch.tensor(gradient(w.detach().double().numpy()), dtype=torch.float32)
            optimizer.step()
        assert torch.equal(ours, theirs)


def test_adams_first_step_without_correction_is_too_long():
    """Corrected it is the rate; uncorrected (1 - beta1) / sqrt(1 - beta2) = 3.16 times that."""
    for correct, factor in ((True, 1.0), (False, 0.1 / 0.001**0.5)):
        w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        w.grad = torch.tensor([0.5, -2.0, 30.0], dtype=torch.float64)
        Adam([w], 0.01, bias_correction=correct).step()
        torch.testing.assert_close(w.detach(), -0.01 * factor * w.grad.sign(), rtol=1e-5, atol=0)
