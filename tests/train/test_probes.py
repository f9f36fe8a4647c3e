"""Probes: what they measure is what a plain recomputation finds."""

import tracemalloc
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from runner.execution.eager import EagerProgram
from runner.train import probes
from runner.train.probes import Probe, hessian_ends
from runner.train.program import Objective
from tests.shared.training import first_look, make


def test_norms_ratios_and_cosine_are_those_of_the_vectors():
    """Each stage's numbers equal norms of its flattened parameters, gradients and updates."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    stages = [("first", list(model[0].parameters())), ("head", list(model[2].parameters()))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    probe = Probe(stages, every=4)
    images, labels = torch.randn(6, 5).double(), torch.randint(0, 3, (6,))
    seen = []
    for step in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        before = [torch.cat([p.detach().flatten() for p in group]) for _, group in stages]
        gradients = [torch.cat([p.grad.flatten() for p in group]) for _, group in stages]
        if probe.due(step):
            probe.before()
        optimizer.step()
        if probe.due(step):
            probe.after(step)
        after = [torch.cat([p.detach().flatten() for p in group]) for _, group in stages]
        seen.append((before, gradients, [a - b for a, b in zip(after, before, strict=True)]))
    found = probe.read()
    weights, gradients, updates = seen[-1]
    for i, name in enumerate(("first", "head")):
        assert found[f"grad_norm/{name}"] == pytest.approx(gradients[i].norm().item())
        assert found[f"update_norm/{name}"] == pytest.approx(updates[i].norm().item())
        assert found[f"update_ratio/{name}"] == pytest.approx((updates[i].norm() / weights[i].norm()).item())
        assert found[f"effective_rate/{name}"] == pytest.approx((updates[i].norm() / gradients[i].norm()).item())
    expected = torch.cosine_similarity(torch.cat(seen[-2][2]), torch.cat(updates), dim=0)
    assert found["update_cosine"] == pytest.approx(expected.item())
    assert probe.read() == {}


def test_only_two_steps_in_a_cadence_are_looked_at():
    """The step of the cadence and the one before it."""
    assert [step for step in range(20) if Probe([], 10).due(step)] == [8, 9, 18, 19]
    assert not any(Probe([], 0).due(step) for step in range(20))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_norms_are_those_before_clipping(precision):
    """With fp16 gradients are unscaled and clipped before the optimizer's step, else clipped inside it."""
    norms = []
    for clip in ("null", "0.001"):
        run = make(f"precision={precision}", f"clip_grad_norm={clip}", "probe.every=1")
        batch, loss = first_look(run)
        run.step(loss, Objective(run, batch, loss, EagerProgram()))
        norms.append(run.probe.read()["grad_norm/head"])
    assert norms[0] > 0.01 and norms[1] == pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize(("hidden", "large"), [(2, 10**7), (6, 10**7), (6, 20)])
def test_the_hessians_ends_equal_those_of_the_whole_matrix(hidden, large, monkeypatch):
    """Lanczos on Hessian-vector products, added up over pieces, against exact eigenvalues; also with few vectors."""
    monkeypatch.setattr(probes, "LARGE", large)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2)).double()
    images, labels = torch.randn(12, 3).double(), torch.randint(0, 2, (12,))
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]

    def loss_of(vector):
        named = {
            name: part.view_as(p) for (name, p), part in zip(model.named_parameters(), vector.split(sizes), strict=True)
        }
        return nn.functional.cross_entropy(torch.func.functional_call(model, named, (images,)), labels)

    flat = torch.cat([p.detach().flatten() for p in parameters])
    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss_of, flat))

    def pieces():
        for rows in (slice(0, 8), slice(8, 12)):
            yield nn.functional.cross_entropy(model(images[rows]), labels[rows], reduction="sum") / 12

    smallest, largest = hessian_ends(parameters, pieces)
    assert smallest == pytest.approx(exact[0].item(), rel=1e-3, abs=1e-6)
    assert largest == pytest.approx(exact[-1].item(), rel=1e-3)


def test_the_curvature_of_a_large_network_takes_the_memory_of_few_copies_of_it():
    """Twelve million parameters are 48 MB; SciPy's own choice of twenty vectors of doubles takes 4 GB at its peak."""
    weight = nn.Parameter(torch.linspace(0.5, 1, 12_000_000))
    tracemalloc.start()
    ends = hessian_ends([weight], lambda: iter([weight[0] ** 2 - weight[1] ** 2 / 2]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ends == pytest.approx((-1, 2), rel=1e-3)
    assert peak < 25 * 48e6


def test_probes_are_in_tensorboard_and_change_no_number(cli):
    """Tags by stage; the same results with probes off."""
    words = ("model=mlp", "model.hidden=[8]", "epochs=3", "log.images=0")
    assert cli(*words, "probe.every=10", "probe.curvature_every=2", "name=on")[0] == 0
    assert cli(*words, "probe.every=0", "name=off")[0] == 0
    (on,), (off,) = Path("outputs/on").glob("*/metrics.csv"), Path("outputs/off").glob("*/metrics.csv")
    drop = [line.rsplit(",", 1)[0] for line in on.read_text().splitlines()]
    assert drop == [line.rsplit(",", 1)[0] for line in off.read_text().splitlines()]
    events = EventAccumulator(str(on.parent)).Reload()
    assert {"grad_norm/head", "update_ratio/linear1", "update_cosine", "curvature/largest"} <= set(
        events.Tags()["scalars"]
    )
    assert len(events.Scalars("curvature/largest")) == 1
