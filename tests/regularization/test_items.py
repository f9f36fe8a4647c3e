"""Contract of every item of the stack: it changes training, by at least one hook."""

import pytest
import torch

from runner.build.check import check
from runner.execution.eager import EagerProgram
from runner.model.mlp import MLP
from runner.regularization.base import Item
from runner.regularization.dropout import DropoutLayer
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.configs import GROUP_OPTIONS, composed, split
from tests.shared.draws import seeded
from tests.shared.stack_items import SHAPE
from tests.shared.training import make

ITEMS = [split(option)[1] for option in GROUP_OPTIONS if option.startswith("regularization/")]

STRONGER = {"max_norm": ["regularization.max_norm.max_norm=0.5"]}  # at its default nothing is that long so early
PLACE = {"stochastic_depth": "resnet20"}  # which has residual branches


@pytest.mark.parametrize("name", ITEMS)
def test_each_item_changes_training(name):
    """With the item the same run ends with other weights than without."""
    base = (f"model={PLACE.get(name, 'convnet')}", "batch_size=16", "epochs=1", "optimizer=sgd", "data.limit=100")
    found = []
    for stack, more in ((f"[{name}]", STRONGER.get(name, [])), ("[]", [])):
        config = check(composed(*base, f"regularization={stack}", *more))
        builder, noise = Resources(), seeded()
        parts = builder.parts(config, builder.splits(config), torch.device("cpu"), noise)
        run = type(make())(config, parts, torch.device("cpu"), noise)
        train([run], EagerProgram())
        found.append(dict(run.model.named_parameters()))
    shared = found[0].keys() & found[1].keys()
    assert shared and any(not torch.allclose(found[0][k], found[1][k], rtol=1e-6, atol=1e-7) for k in shared)


@pytest.mark.parametrize("name", ITEMS)
def test_each_item_has_a_hook(name):
    """An item overrides at least one hook, and only such are called."""
    item = Resources().stack(check(composed(f"regularization=[{name}]")), "regularization")[name]
    assert any(item.overrides(hook) for hook in ("modify", "mix", "penalty", "output_penalty", "after_step"))
    assert not any(Item().overrides(hook) for hook in ("modify", "mix", "penalty", "output_penalty", "after_step"))


def test_base_does_nothing():
    """The hooks of the base leave model, images and targets alone."""
    model, images, targets = MLP([4], **SHAPE), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    Item().modify(model, None)
    Item().after_step(model)
    same = Item().mix(images, targets, 3, seeded())
    assert same[0] is images and same[1] is targets
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()].count(DropoutLayer) == 0
