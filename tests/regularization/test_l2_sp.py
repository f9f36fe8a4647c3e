"""L2-SP: the penalty toward the pretrained weights, against its formula."""

import copy

import numpy as np
import pytest
import torch

from runner.build.check import check
from runner.execution.eager import EagerProgram
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.configs import composed
from tests.shared.training import make
from tests.shared.transfer import NET, STAGES, network, refusal, saved, values


@pytest.mark.parametrize("stack", ["[l2_sp]", "[l2_sp,dropconnect,batchnorm]", "[dropconnect,batchnorm,l2_sp]"])
def test_l2_sp_against_its_formula(tmp_path, stack):
    """weight / 2 x squared distance from what came, head_weight / 2 x squares of the head; no biases, no norms."""
    state = network(classes=5).state_dict()
    keys = ("regularization.l2_sp.weight=0.3", "regularization.l2_sp.head_weight=0.7")
    run = make(*NET, saved(tmp_path, state), f"regularization={stack}", *keys, "transfer.freeze_depth=1")
    item, model = run.parts.stack["l2_sp"], run.model.eval()
    head = model.head.weight.detach().double().numpy()
    assert item.penalty(model).item() == pytest.approx(0.35 * np.square(head).sum(), rel=1e-5)
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p += 0.01 * number
    found = item.penalty(model)
    found.backward()
    wanted = 0.35 * np.square(model.head.weight.detach().double().numpy()).sum()
    for stage in STAGES[1:3]:  # the first is frozen
        moved = model.get_submodule(stage).weight.detach().double().numpy() - state[f"{stage}.weight"].double().numpy()
        wanted += 0.15 * np.square(moved).sum()
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert all(p.grad is None for p in model.parameters() if p.ndim < 2) and "l2_sp" in run.penalties
    assert copy.deepcopy(item).penalty(copy.deepcopy(model)).item() == found.item()


def test_l2_sp_keeps_weights_near_their_start(tmp_path):
    """The larger its weight, the shorter the way; `l2` pulls toward zero instead."""
    words = (*NET, saved(tmp_path, network(classes=5).state_dict()), "transfer.pretrained_lr_scale=1", "epochs=3")

    def way(*more):
        run = make(*words, *more)
        before = values(run)["hidden.weight"]
        train([run], EagerProgram())
        return (run.model.hidden.weight - before).norm().item()

    free, near, nearer = (
        way(*more)
        for more in (
            (),
            ("regularization=[l2_sp]", "regularization.l2_sp.weight=1"),
            ("regularization=[l2_sp]", "regularization.l2_sp.weight=8"),
        )
    )
    assert free > near > nearer
    assert way("regularization=[l2]", "regularization.l2.weight=1") > free


def test_l2_sp_needs_weights(tmp_path):
    """Nothing came: one line, with two ways out."""
    line = "regularization=[l2_sp]: no weights came to stay near to; set transfer.weights, or use l2 in its place"
    assert refusal("regularization=[l2_sp]") == line
    weights = saved(tmp_path, network(classes=10).state_dict())
    assert refusal("regularization=[l2_sp]", "transfer=scratch", weights) == line
    Resources().preflight(check(composed(*NET, "regularization=[l2_sp]", weights)))
